"""What a reset empties, whatever the schema and whoever else is connected, on PostgreSQL."""
