//! The steps from an empty schema to the present one. A step is never changed once it was
//! released.
//!
//! A message may hold zero bytes, which PostgreSQL's text cannot: it is kept as bytes.

/// `palisade_schema` counts the steps that were taken.
pub(super) const MIGRATIONS: [&str; 6] = [TESTS, SPEED, INCIDENTS, JOURNAL, SNAPSHOTS, DOCUMENTS];

const TESTS: &str = "
    CREATE TABLE palisade_runs (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        started_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT,
        toolchain TEXT NOT NULL,
        machine TEXT NOT NULL,
        lockfile TEXT NOT NULL,
        config TEXT NOT NULL,
        scope TEXT NOT NULL,
        complete BOOLEAN NOT NULL
    );
    CREATE INDEX ON palisade_runs (tree);
    CREATE INDEX ON palisade_runs (started_ms);
    CREATE TABLE palisade_tests (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE palisade_observations (
        run BIGINT NOT NULL REFERENCES palisade_runs (seq),
        place BIGINT NOT NULL,
        test BIGINT NOT NULL REFERENCES palisade_tests (seq),
        outcome TEXT NOT NULL,
        duration_ms DOUBLE PRECISION,
        body TEXT,
        message BYTEA,
        PRIMARY KEY (run, place)
    );
    CREATE INDEX ON palisade_observations (test);
    CREATE TABLE palisade_baselines (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        recorded_ms BIGINT NOT NULL,
        branch TEXT NOT NULL,
        run TEXT NOT NULL
    );
    CREATE TABLE palisade_quarantine (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        test TEXT NOT NULL,
        event TEXT NOT NULL
    );
";

const SPEED: &str = "
    CREATE TABLE palisade_speed_runs (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        started_ms BIGINT NOT NULL,
        finished_ms BIGINT NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT,
        fingerprint TEXT NOT NULL
    );
    CREATE INDEX ON palisade_speed_runs (started_ms);
    CREATE TABLE palisade_measurements (
        run BIGINT NOT NULL REFERENCES palisade_speed_runs (seq),
        place BIGINT NOT NULL,
        benchmark TEXT NOT NULL,
        measure TEXT NOT NULL,
        launches DOUBLE PRECISION[] NOT NULL,
        PRIMARY KEY (run, place)
    );
    CREATE TABLE palisade_calibrations (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        fingerprint TEXT NOT NULL,
        found TEXT NOT NULL
    );
    CREATE TABLE palisade_milestones (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        set_ms BIGINT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty BOOLEAN NOT NULL,
        checkout BOOLEAN NOT NULL,
        branch TEXT
    );
";

const INCIDENTS: &str = "
    CREATE TABLE palisade_incidents (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        closed_ms BIGINT NOT NULL,
        incident TEXT NOT NULL
    );
";

const JOURNAL: &str = "
    CREATE TABLE palisade_journal (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ms BIGINT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        event TEXT NOT NULL
    );
";

const SNAPSHOTS: &str = "ALTER TABLE palisade_milestones ADD COLUMN snapshot TEXT;";

/// Every record that is no run becomes the line of JSON that an export has for it. Numbers
/// keep all their digits, and names are sorted by their bytes, as everywhere else.
const DOCUMENTS: &str = "
    SET LOCAL extra_float_digits = 3;
    ALTER TABLE palisade_tests ALTER COLUMN name TYPE TEXT COLLATE \"C\";
    CREATE TABLE palisade_documents (
        seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at_ms BIGINT NOT NULL,
        json TEXT NOT NULL,
        UNIQUE (kind, id)
    );
    CREATE INDEX ON palisade_documents (kind, at_ms);
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'baseline', id, recorded_ms, json_build_object(
            'record', 'baseline', 'id', id, 'recorded_ms', recorded_ms,
            'branch', branch, 'run', run)
        FROM palisade_baselines ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'quarantine', id, at_ms, json_build_object(
            'record', 'quarantine', 'id', id, 'at_ms', at_ms,
            'test', test, 'event', event::json)
        FROM palisade_quarantine ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'speed', id, started_ms, json_build_object(
            'record', 'speed', 'id', id, 'session', session,
            'started_ms', started_ms, 'finished_ms', finished_ms, 'purpose', purpose,
            'subject', json_build_object(
                'tree', tree, 'commit', commit_id, 'dirty', dirty,
                'checkout', checkout, 'branch', branch),
            'fingerprint', fingerprint::json,
            'measurements', (
                SELECT coalesce(json_agg(json_build_object(
                    'benchmark', benchmark, 'measure', measure, 'values', launches)
                    ORDER BY place), '[]')
                FROM palisade_measurements WHERE run = palisade_speed_runs.seq))
        FROM palisade_speed_runs ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'calibration', id, at_ms, '{\"record\":\"calibration\",' || substr(found, 2)
        FROM palisade_calibrations ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'milestone', id, set_ms, json_build_object(
            'record', 'milestone', 'id', id, 'name', name, 'set_ms', set_ms,
            'subject', json_build_object(
                'tree', tree, 'commit', commit_id, 'dirty', dirty,
                'checkout', checkout, 'branch', branch),
            'snapshot', snapshot::json)
        FROM palisade_milestones ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'incident', id, closed_ms, '{\"record\":\"incident\",' || substr(incident, 2)
        FROM palisade_incidents ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'journal', id, at_ms, json_build_object(
            'record', 'journal', 'id', id, 'at_ms', at_ms,
            'tree', tree, 'commit', commit_id, 'event', event::json)
        FROM palisade_journal ORDER BY seq;
    DROP TABLE palisade_baselines, palisade_quarantine, palisade_measurements,
        palisade_speed_runs, palisade_calibrations, palisade_milestones,
        palisade_incidents, palisade_journal;
";
