//! The steps from an empty file to the present schema. A step is never changed once it was
//! released.

/// The file's `user_version` counts the steps it has taken.
pub(super) const MIGRATIONS: [&str; 6] = [TESTS, SPEED, INCIDENTS, JOURNAL, SNAPSHOTS, DOCUMENTS];

const TESTS: &str = "
    CREATE TABLE runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT,
        toolchain TEXT NOT NULL,
        machine TEXT NOT NULL,
        lockfile TEXT NOT NULL,
        config TEXT NOT NULL,
        scope TEXT NOT NULL,
        complete INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_tree ON runs (tree);
    CREATE TABLE tests (
        seq INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE observations (
        run INTEGER NOT NULL REFERENCES runs (seq),
        test INTEGER NOT NULL REFERENCES tests (seq),
        outcome TEXT NOT NULL,
        duration_ms REAL,
        body TEXT,
        message TEXT
    ) STRICT;
    CREATE INDEX observations_by_run ON observations (run);
    CREATE INDEX observations_by_test ON observations (test);
    CREATE TABLE baselines (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        recorded_ms INTEGER NOT NULL,
        branch TEXT NOT NULL,
        run TEXT NOT NULL
    ) STRICT;
    CREATE TABLE quarantine (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        test TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
";

const SPEED: &str = "
    CREATE TABLE speed_runs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT,
        fingerprint TEXT NOT NULL
    ) STRICT;
    CREATE INDEX speed_runs_by_time ON speed_runs (started_ms);
    CREATE TABLE measurements (
        run INTEGER NOT NULL REFERENCES speed_runs (seq),
        benchmark TEXT NOT NULL,
        measure TEXT NOT NULL,
        launches TEXT NOT NULL
    ) STRICT;
    CREATE INDEX measurements_by_run ON measurements (run);
    CREATE TABLE calibrations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        found TEXT NOT NULL
    ) STRICT;
    CREATE TABLE milestones (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        set_ms INTEGER NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        dirty INTEGER NOT NULL,
        checkout INTEGER NOT NULL,
        branch TEXT
    ) STRICT;
";

const INCIDENTS: &str = "
    CREATE TABLE incidents (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        closed_ms INTEGER NOT NULL,
        incident TEXT NOT NULL
    ) STRICT;
";

const JOURNAL: &str = "
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
";

const SNAPSHOTS: &str = "ALTER TABLE milestones ADD COLUMN snapshot TEXT;";

/// Every record that is no run becomes the line of JSON that an export has for it, and the
/// tables get the names and columns that they have on a server.
const DOCUMENTS: &str = "
    ALTER TABLE runs RENAME TO palisade_runs;
    ALTER TABLE tests RENAME TO palisade_tests;
    CREATE TABLE palisade_observations (
        run INTEGER NOT NULL REFERENCES palisade_runs (seq),
        place INTEGER NOT NULL,
        test INTEGER NOT NULL REFERENCES palisade_tests (seq),
        outcome TEXT NOT NULL,
        duration_ms REAL,
        body TEXT,
        message TEXT,
        PRIMARY KEY (run, place)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO palisade_observations
        SELECT run, row_number() OVER (PARTITION BY run ORDER BY rowid),
               test, outcome, duration_ms, body, message
        FROM observations;
    CREATE INDEX palisade_observations_by_test ON palisade_observations (test);
    CREATE TABLE palisade_documents (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        json TEXT NOT NULL,
        UNIQUE (kind, id)
    ) STRICT;
    CREATE INDEX palisade_documents_by_time ON palisade_documents (kind, at_ms);
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'baseline', id, recorded_ms, json_object(
            'record', 'baseline', 'id', id, 'recorded_ms', recorded_ms,
            'branch', branch, 'run', run)
        FROM baselines ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'quarantine', id, at_ms, json_object(
            'record', 'quarantine', 'id', id, 'at_ms', at_ms,
            'test', test, 'event', json(event))
        FROM quarantine ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'speed', id, started_ms, json_object(
            'record', 'speed', 'id', id, 'session', session,
            'started_ms', started_ms, 'finished_ms', finished_ms, 'purpose', purpose,
            'subject', json_object(
                'tree', tree, 'commit', commit_id,
                'dirty', json(iif(dirty, 'true', 'false')),
                'checkout', json(iif(checkout, 'true', 'false')), 'branch', branch),
            'fingerprint', json(fingerprint),
            'measurements', json((
                SELECT json_group_array(json_object(
                    'benchmark', benchmark, 'measure', measure, 'values', json(launches))
                    ORDER BY measurements.rowid)
                FROM measurements WHERE run = speed_runs.seq)))
        FROM speed_runs ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'calibration', id, at_ms, json_set(found, '$.record', 'calibration')
        FROM calibrations ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'milestone', id, set_ms, json_object(
            'record', 'milestone', 'id', id, 'name', name, 'set_ms', set_ms,
            'subject', json_object(
                'tree', tree, 'commit', commit_id,
                'dirty', json(iif(dirty, 'true', 'false')),
                'checkout', json(iif(checkout, 'true', 'false')), 'branch', branch),
            'snapshot', json(coalesce(snapshot, 'null')))
        FROM milestones ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'incident', id, closed_ms, json_set(incident, '$.record', 'incident')
        FROM incidents ORDER BY seq;
    INSERT INTO palisade_documents (kind, id, at_ms, json)
        SELECT 'journal', id, at_ms, json_object(
            'record', 'journal', 'id', id, 'at_ms', at_ms,
            'tree', tree, 'commit', commit_id, 'event', json(event))
        FROM journal ORDER BY seq;
    DROP TABLE observations;
    DROP TABLE baselines;
    DROP TABLE quarantine;
    DROP TABLE measurements;
    DROP TABLE speed_runs;
    DROP TABLE calibrations;
    DROP TABLE milestones;
    DROP TABLE incidents;
    DROP TABLE journal;
";
