"""Fuzzing: foreign bytes against everything that reads them (`make fuzz`)."""
