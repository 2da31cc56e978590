"""What a user may write: a recipe's schema, how recipes and configs are composed, the files that ship. No torch."""
