"""The vocabulary and the rules: pure, pydantic and the standard library only."""
