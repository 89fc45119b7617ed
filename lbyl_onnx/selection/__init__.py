"""How many units go, and which."""
