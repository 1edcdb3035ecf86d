"""Scenarios that random examples found, as small as they became. See :mod:`tests.differential.scenario` for the headers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.postgresql

AUDIT = """
CREATE TABLE log (what text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log VALUES (TG_OP); RETURN NULL; END$$;
"""


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_a_key_that_is_put_back_to_an_equal_one_does_not_change_the_rows_that_refer_to_it(play_sql, action):
    """1.0 and 1.00 are equal, and yet another key for ON UPDATE."""
    play_sql(f"""
--: setup
CREATE TABLE referenced (id numeric PRIMARY KEY);
CREATE TABLE referencing (id integer PRIMARY KEY, ref numeric REFERENCES referenced ON UPDATE {action});
INSERT INTO referenced VALUES (1.0);
INSERT INTO referencing VALUES (1, 1.00);
--: capture
--: own update
UPDATE referenced SET id = 1.000;
--: reset
""")


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_the_action_of_a_key_fires_no_trigger_of_a_table_that_was_not_written(play_sql, action):
    """The action is a statement of its own, also where no row refers to the one that goes."""
    play_sql(f"""
--: setup
CREATE TABLE referenced (id integer PRIMARY KEY);
CREATE TABLE referencing (ref integer REFERENCES referenced ON DELETE {action});
{AUDIT}
CREATE TRIGGER t AFTER DELETE OR UPDATE ON referencing FOR EACH STATEMENT EXECUTE FUNCTION audit();
--: capture
--: own insert
INSERT INTO referenced VALUES (1);
--: reset
""")


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_the_action_of_a_key_meets_no_rule_of_a_table_that_was_not_written(play_sql, action):
    """PostgreSQL refuses an action that a rule turned into something else."""
    play_sql(f"""
--: setup
CREATE TABLE referenced (id integer PRIMARY KEY);
CREATE TABLE referencing (ref integer REFERENCES referenced ON DELETE {action});
CREATE RULE keeps AS ON DELETE TO referencing DO INSTEAD NOTHING;
CREATE RULE stays AS ON UPDATE TO referencing DO INSTEAD NOTHING;
--: capture
--: own insert
INSERT INTO referenced VALUES (1);
--: reset
""")


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_a_plan_of_a_key_that_a_rule_has_emptied_does_not_outlive_the_session(play_sql, action):
    """The session that has failed to delete keeps the plan in which there is nothing left to do, and to invalidate."""
    play_sql(f"""
--: own make tables
CREATE TABLE referenced (id integer PRIMARY KEY, v text);
CREATE TABLE referencing (ref integer REFERENCES referenced ON DELETE {action});
CREATE RULE keeps AS ON DELETE TO referencing DO INSTEAD NOTHING;
CREATE RULE stays AS ON UPDATE TO referencing DO INSTEAD NOTHING;
INSERT INTO referenced VALUES (1, 'one');
--: capture
--: own delete
DELETE FROM referenced;
--: own insert
INSERT INTO referenced VALUES (2, 'two');
--: reset
""")


def test_the_action_of_a_key_to_the_table_itself_meets_no_rule_and_fires_no_trigger(play_sql):
    """To delete a row is then to update the rows that refer to it, in the same table."""
    play_sql(f"""
--: setup
CREATE TABLE ruled (id integer PRIMARY KEY, ref integer REFERENCES ruled ON DELETE SET NULL);
CREATE RULE stays AS ON UPDATE TO ruled DO INSTEAD NOTHING;
CREATE TABLE audited (id integer PRIMARY KEY, ref integer REFERENCES audited ON DELETE SET NULL);
{AUDIT}
CREATE TRIGGER t AFTER UPDATE ON audited FOR EACH STATEMENT EXECUTE FUNCTION audit();
--: capture
--: own insert
INSERT INTO ruled VALUES (1);
INSERT INTO audited VALUES (1);
--: reset
""")


def test_a_sequence_that_came_back_by_itself_may_move_again_without_an_id_and_is_found(play_sql):
    """A reset has nothing to set, and so the next call is not logged: it takes no transaction id."""
    play_sql("""
--: setup
CREATE TABLE t (id serial);
INSERT INTO t DEFAULT VALUES;
--: capture
--: own restarted and called
ALTER SEQUENCE t_id_seq RESTART;
SELECT nextval('t_id_seq');
--: reset unseen
--: own nextval
SELECT nextval('t_id_seq');
--: reset unseen
--: own nextval
SELECT nextval('t_id_seq');
--: reset
""")


@pytest.mark.parametrize("setting", ["quote_all_identifiers = on", "search_path = other"])
def test_a_setting_of_the_session_does_not_make_the_baseline_one_of_another_schema(play_sql, setting):
    play_sql(f"""
--: setup
CREATE SCHEMA other;
CREATE TYPE other.mood AS ENUM ('sad');
CREATE TABLE felt (how other.mood);
INSERT INTO felt VALUES ('sad');
--: capture
--: own setting
SET {setting};
--: own delete
DELETE FROM public.felt;
--: reset
--: own delete
DELETE FROM public.felt;
--: reset
""")


def test_a_baseline_whose_own_rows_break_a_key_is_refused_and_nothing_is_changed(play_sql):
    """The key that the row of the baseline refers to was deleted by a replica, which checks no keys."""
    tally = play_sql("""
--: setup
CREATE TABLE t (id integer PRIMARY KEY, up integer REFERENCES t);
INSERT INTO t VALUES (1, NULL), (2, 1);
--: capture
--: superuser write as replica
SET session_replication_role = replica; DELETE FROM t WHERE id = 1; RESET session_replication_role;
--: capture again
--: own delete
DELETE FROM t;
--: reset
""")
    assert "- resets refused (1): rows of the baseline break a key 1" in list(tally.lines())


LEFT = {
    "partition detached": ("ALTER TABLE r DETACH PARTITION p", "ALTER TABLE r ATTACH PARTITION p FOR VALUES IN (1)"),
    "partition of other bounds left": (
        "ALTER TABLE r DETACH PARTITION p; ALTER TABLE r ATTACH PARTITION p FOR VALUES IN (1, 2)",
        "ALTER TABLE r DETACH PARTITION p; ALTER TABLE r ATTACH PARTITION p FOR VALUES IN (1)",
    ),
    "heir alone": ("ALTER TABLE heir NO INHERIT a", "ALTER TABLE heir INHERIT a"),
    "enum dropped": ("DROP TYPE mood CASCADE", ""),
    "enum made anew": ("DROP TYPE mood CASCADE; CREATE TYPE mood AS ENUM ('ok', 'sad')", ""),
    "domain dropped": ("DROP DOMAIN price CASCADE", ""),
    "enum value renamed": (
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE mood RENAME VALUE 'blue' TO 'sad'",
    ),
}


@pytest.mark.parametrize("resetter", ["warm", "new"])
@pytest.mark.parametrize("kind", LEFT)
def test_a_change_of_partitions_parents_or_types_is_refused_until_it_is_undone(play_sql, kind, resetter):
    change, undo = LEFT[kind]
    play_sql(
        f"""
--: setup
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
CREATE TABLE r (id integer) PARTITION BY LIST (id); CREATE TABLE p PARTITION OF r FOR VALUES IN (1);
CREATE TABLE a (id integer, how mood, cost price); CREATE TABLE heir () INHERITS (a);
INSERT INTO r VALUES (1); INSERT INTO a VALUES (1, 'sad', 1.0); INSERT INTO heir VALUES (2, 'ok', 2);
--: capture
--: own update
UPDATE a SET id = id + 1
--: reset warm
--: own left behind
{change}
--: reset {resetter} refused
"""
        + (f"--: own taken away\n{undo}\n" if undo else "--: capture again\n")
        + """
--: own delete
DELETE FROM ONLY a
--: reset warm
"""
    )


def test_a_session_whose_renewal_was_dropped_with_what_was_prepared_is_renewed_before_the_next_try(play_sql):
    """The first try ends inside a transaction: its BEGIN was prepared just then, and what follows was dropped."""
    scenario = """
--: own make log
CREATE TABLE log (what text);
--: capture
--: reset warm alone always unseen again
--: own prepared statement
DEALLOCATE ALL; PREPARE p AS INSERT INTO log (what) VALUES ('y') ON CONFLICT DO NOTHING; EXECUTE p;
--: own session state
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;
--: reset warm alone always seen-by-own again
"""
    play_sql(scenario)  # nothing is known of new sessions yet
    play_sql(scenario)
