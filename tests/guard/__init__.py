"""May this database be reset? Every rule, asked of live connections."""
