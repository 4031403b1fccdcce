"""A home over the years: what can go, what is of an older format, what was moved."""
