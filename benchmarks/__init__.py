"""`make bench`: our engine beside peft with the HF Trainer and TRL, alternating, on the same documents."""
