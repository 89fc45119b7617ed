"""Many models at many budgets, in several processes or on several machines; what is finished is done once."""
