"""What the core and a family agree on: types without logic. A family imports these; it imports no other family."""
