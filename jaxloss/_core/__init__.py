"""What losses share. Nothing in here imports from outside of it, and no loss is in here."""
