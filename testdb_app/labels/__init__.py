"""Which Django models stand behind which tables, and where models and database disagree on a foreign key."""

from testdb_app.labels.disagreements import Disagreement, DisagreementKind, foreign_key_disagreements
from testdb_app.labels.tables import ModelIndex, ModelWithoutTable, index_models, split_db_table

__all__ = [
    "Disagreement",
    "DisagreementKind",
    "ModelIndex",
    "ModelWithoutTable",
    "foreign_key_disagreements",
    "index_models",
    "split_db_table",
]
