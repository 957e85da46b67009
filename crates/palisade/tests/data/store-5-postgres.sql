CREATE TABLE palisade_schema (version INTEGER NOT NULL);
INSERT INTO palisade_schema VALUES (5);
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
CREATE TABLE palisade_incidents (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    closed_ms BIGINT NOT NULL,
    incident TEXT NOT NULL
);
CREATE TABLE palisade_journal (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at_ms BIGINT NOT NULL,
    tree TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    event TEXT NOT NULL
);
ALTER TABLE palisade_milestones ADD COLUMN snapshot TEXT;
INSERT INTO palisade_runs (id, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch, toolchain, machine, lockfile, config, scope, complete) VALUES ('00000000-0000-4000-8000-000000000001', 1000, 2500, 'tests', '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', false, false, 'main', 'rustc 1.95.0 x86_64-unknown-linux-gnu', 'linux x86_64, a processor, 2 cores', '33', 'cargo-nextest 0.9, settings 44', '"workspace"', true);
INSERT INTO palisade_runs (id, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch, toolchain, machine, lockfile, config, scope, complete) VALUES ('00000000-0000-4000-8000-000000000002', 3000, 3100, 'stress', '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', true, true, NULL, 'rustc 1.95.0 x86_64-unknown-linux-gnu', 'linux x86_64, a processor, 2 cores', '33', 'cargo test, settings 44', '{"tests":["a/lib/tests::x"]}', false);
INSERT INTO palisade_tests (name) VALUES ('a/lib/tests::x');
INSERT INTO palisade_tests (name) VALUES ('a/doc/src/lib.rs - f #2');
INSERT INTO palisade_tests (name) VALUES ('a/test:it/y');
INSERT INTO palisade_observations (run, test, outcome, duration_ms, body, message, place) VALUES (1, 1, 'pass', 12.5, '55', NULL, 1);
INSERT INTO palisade_observations (run, test, outcome, duration_ms, body, message, place) VALUES (1, 2, 'fail', NULL, NULL, 'left: 1', 2);
INSERT INTO palisade_observations (run, test, outcome, duration_ms, body, message, place) VALUES (1, 3, 'ignored', NULL, NULL, NULL, 3);
INSERT INTO palisade_observations (run, test, outcome, duration_ms, body, message, place) VALUES (2, 1, 'timed_out', 2000.0, '55', NULL, 1);
INSERT INTO palisade_baselines (id, recorded_ms, branch, run) VALUES ('00000000-0000-4000-8000-000000000003', 2600, 'main', '00000000-0000-4000-8000-000000000001');
INSERT INTO palisade_quarantine (id, at_ms, test, event) VALUES ('00000000-0000-4000-8000-000000000004', 4000, 'a/lib/tests::x', '{"event":"quarantined","owner":"ada","reason":"race","issue":null,"expires_ms":9000,"release_after":59}');
INSERT INTO palisade_speed_runs (id, session, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch, fingerprint) VALUES ('00000000-0000-4000-8000-000000000005', '00000000-0000-4000-8000-00000000000a', 5000, 6000, 'comparison', '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', false, true, 'main', '{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"}');
INSERT INTO palisade_speed_runs (id, session, started_ms, finished_ms, purpose, tree, commit_id, dirty, checkout, branch, fingerprint) VALUES ('00000000-0000-4000-8000-000000000006', '00000000-0000-4000-8000-00000000000b', 7000, 8000, 'series', '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', false, true, NULL, '{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"}');
INSERT INTO palisade_measurements (run, benchmark, measure, launches, place) VALUES (1, 'sort/1k', 'time', '{1001.5,1003.25}', 1);
INSERT INTO palisade_measurements (run, benchmark, measure, launches, place) VALUES (1, 'sort/1k', 'peak_memory', '{2097152.0}', 2);
INSERT INTO palisade_calibrations (id, at_ms, fingerprint, found) VALUES ('00000000-0000-4000-8000-000000000007', 9000, 'cores: 2, processor: a processor, rustc: rustc 1.95.0', '{"id":"00000000-0000-4000-8000-000000000007","at_ms":9000,"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"spreads":[{"benchmark":"sort/1k","measure":"time","comparisons":20,"spread":0.0025}],"false_alarms":{"found":0,"of":20},"detections":[{"slowdown":0.05,"rate":{"found":19,"of":20}}]}');
INSERT INTO palisade_milestones (id, name, set_ms, tree, commit_id, dirty, checkout, branch, snapshot) VALUES ('00000000-0000-4000-8000-000000000008', '0.1', 9500, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', false, false, 'main', 'null');
INSERT INTO palisade_milestones (id, name, set_ms, tree, commit_id, dirty, checkout, branch, snapshot) VALUES ('00000000-0000-4000-8000-000000000009', '0.2', 9501, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', false, false, 'main', '{"tests":{"environment":{"toolchain":"rustc 1.95.0 x86_64-unknown-linux-gnu","machine":"linux x86_64, a processor, 2 cores","lockfile":"33","config":"cargo-nextest 0.9, settings 44"},"states":{"passing":{"a/lib/tests::x":"55"},"failing":{"a/doc/src/lib.rs - f #2":null},"ignored":{"a/test:it/y":null}}},"speed":[{"id":"00000000-0000-4000-8000-000000000006","session":"00000000-0000-4000-8000-00000000000b","started_ms":7000,"finished_ms":8000,"purpose":"series","subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":true,"branch":null},"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"measurements":[]}],"claims":[{"document":"README.md","name":"size","written":"11.5","state":"holds","found":11.498}]}');
INSERT INTO palisade_incidents (id, closed_ms, incident) VALUES ('00000000-0000-4000-8000-000000000010', 9550, '{"id":"00000000-0000-4000-8000-000000000010","opened_ms":9510,"closed_ms":9550,"question":{"test":"a/lib/tests::x"},"good":"3333333333333333333333333333333333333333","bad":"2222222222222222222222222222222222222222","timeline":[{"stage":"confirm","at_ms":9520,"seconds":1.5,"words":"it failed in 3 of 3 runs"}],"confirmation":{"failures":3,"passes":0,"ratio":null,"is_red":true,"is_unknown":false},"bisection":null,"revert":null,"validation":null,"monitor":null}');
INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event) VALUES ('00000000-0000-4000-8000-000000000020', 9600, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', '{"event":"hooks_installed"}');
INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event) VALUES ('00000000-0000-4000-8000-000000000021', 9601, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', '{"event":"hook_ran","hook":"pre-commit","exit_code":0}');
INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event) VALUES ('00000000-0000-4000-8000-000000000022', 9602, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', '{"event":"hook_bypassed","hook":"pre-commit"}');
INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event) VALUES ('00000000-0000-4000-8000-000000000023', 9603, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', '{"event":"approved","by":"Ben <ben@example.org>","note":"ran it"}');
INSERT INTO palisade_journal (id, at_ms, tree, commit_id, event) VALUES ('00000000-0000-4000-8000-000000000024', 9604, '1111111111111111111111111111111111111111', '2222222222222222222222222222222222222222', '{"event":"scored","level":"critical","found":1,"missed":["a/lib/tests::x"]}');
