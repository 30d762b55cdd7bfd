"""A grid of conversions, each a task for whichever process or machine is free."""
