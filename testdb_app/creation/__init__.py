"""Make test databases from templates: migrate once, and clone."""
