"""What holds for new samples, with a stated confidence, of how far a compressed model is from its original."""
