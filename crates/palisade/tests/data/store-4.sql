PRAGMA application_id = 1347179332;
PRAGMA user_version = 4;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
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
INSERT INTO runs VALUES(1,'00000000-0000-4000-8000-000000000001',1000,2500,'tests','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',0,0,'main','rustc 1.95.0 x86_64-unknown-linux-gnu','linux x86_64, a processor, 2 cores','33','cargo-nextest 0.9, settings 44','"workspace"',1);
INSERT INTO runs VALUES(2,'00000000-0000-4000-8000-000000000002',3000,3100,'stress','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',1,1,NULL,'rustc 1.95.0 x86_64-unknown-linux-gnu','linux x86_64, a processor, 2 cores','33','cargo test, settings 44','{"tests":["a/lib/tests::x"]}',0);
CREATE TABLE tests (
        seq INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT;
INSERT INTO tests VALUES(1,'a/lib/tests::x');
INSERT INTO tests VALUES(2,'a/doc/src/lib.rs - f #2');
INSERT INTO tests VALUES(3,'a/test:it/y');
CREATE TABLE observations (
        run INTEGER NOT NULL REFERENCES runs (seq),
        test INTEGER NOT NULL REFERENCES tests (seq),
        outcome TEXT NOT NULL,
        duration_ms REAL,
        body TEXT,
        message TEXT
    ) STRICT;
INSERT INTO observations VALUES(1,1,'pass',12.5,'55',NULL);
INSERT INTO observations VALUES(1,2,'fail',NULL,NULL,'left: 1');
INSERT INTO observations VALUES(1,3,'ignored',NULL,NULL,NULL);
INSERT INTO observations VALUES(2,1,'timed_out',2000.0,'55',NULL);
CREATE TABLE baselines (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        recorded_ms INTEGER NOT NULL,
        branch TEXT NOT NULL,
        run TEXT NOT NULL
    ) STRICT;
INSERT INTO baselines VALUES(1,'00000000-0000-4000-8000-000000000003',2600,'main','00000000-0000-4000-8000-000000000001');
CREATE TABLE quarantine (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        test TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
INSERT INTO quarantine VALUES(1,'00000000-0000-4000-8000-000000000004',4000,'a/lib/tests::x','{"event":"quarantined","owner":"ada","reason":"race","issue":null,"expires_ms":9000,"release_after":59}');
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
INSERT INTO speed_runs VALUES(1,'00000000-0000-4000-8000-000000000005','00000000-0000-4000-8000-00000000000a',5000,6000,'comparison','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',0,1,'main','{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"}');
INSERT INTO speed_runs VALUES(2,'00000000-0000-4000-8000-000000000006','00000000-0000-4000-8000-00000000000b',7000,8000,'series','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',0,1,NULL,'{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"}');
CREATE TABLE measurements (
        run INTEGER NOT NULL REFERENCES speed_runs (seq),
        benchmark TEXT NOT NULL,
        measure TEXT NOT NULL,
        launches TEXT NOT NULL
    ) STRICT;
INSERT INTO measurements VALUES(1,'sort/1k','time','[1001.5,1003.25]');
INSERT INTO measurements VALUES(1,'sort/1k','peak_memory','[2097152.0]');
CREATE TABLE calibrations (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        found TEXT NOT NULL
    ) STRICT;
INSERT INTO calibrations VALUES(1,'00000000-0000-4000-8000-000000000007',9000,'cores: 2, processor: a processor, rustc: rustc 1.95.0','{"id":"00000000-0000-4000-8000-000000000007","at_ms":9000,"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"spreads":[{"benchmark":"sort/1k","measure":"time","comparisons":20,"spread":0.0025}],"false_alarms":{"found":0,"of":20},"detections":[{"slowdown":0.05,"rate":{"found":19,"of":20}}]}');
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
INSERT INTO milestones VALUES(1,'00000000-0000-4000-8000-000000000008','0.1',9500,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',0,0,'main');
CREATE TABLE incidents (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        closed_ms INTEGER NOT NULL,
        incident TEXT NOT NULL
    ) STRICT;
INSERT INTO incidents VALUES(1,'00000000-0000-4000-8000-000000000010',9550,'{"id":"00000000-0000-4000-8000-000000000010","opened_ms":9510,"closed_ms":9550,"question":{"test":"a/lib/tests::x"},"good":"3333333333333333333333333333333333333333","bad":"2222222222222222222222222222222222222222","timeline":[{"stage":"confirm","at_ms":9520,"seconds":1.5,"words":"it failed in 3 of 3 runs"}],"confirmation":{"failures":3,"passes":0,"ratio":null,"is_red":true,"is_unknown":false},"bisection":null,"revert":null,"validation":null,"monitor":null}');
CREATE TABLE journal (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        at_ms INTEGER NOT NULL,
        tree TEXT NOT NULL,
        commit_id TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
INSERT INTO journal VALUES(1,'00000000-0000-4000-8000-000000000020',9600,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222','{"event":"hooks_installed"}');
INSERT INTO journal VALUES(2,'00000000-0000-4000-8000-000000000021',9601,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222','{"event":"hook_ran","hook":"pre-commit","exit_code":0}');
INSERT INTO journal VALUES(3,'00000000-0000-4000-8000-000000000022',9602,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222','{"event":"hook_bypassed","hook":"pre-commit"}');
INSERT INTO journal VALUES(4,'00000000-0000-4000-8000-000000000023',9603,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222','{"event":"approved","by":"Ben <ben@example.org>","note":"ran it"}');
INSERT INTO journal VALUES(5,'00000000-0000-4000-8000-000000000024',9604,'1111111111111111111111111111111111111111','2222222222222222222222222222222222222222','{"event":"scored","level":"critical","found":1,"missed":["a/lib/tests::x"]}');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('runs',2);
INSERT INTO sqlite_sequence VALUES('baselines',1);
INSERT INTO sqlite_sequence VALUES('quarantine',1);
INSERT INTO sqlite_sequence VALUES('speed_runs',2);
INSERT INTO sqlite_sequence VALUES('calibrations',1);
INSERT INTO sqlite_sequence VALUES('milestones',1);
INSERT INTO sqlite_sequence VALUES('incidents',1);
INSERT INTO sqlite_sequence VALUES('journal',5);
CREATE INDEX runs_by_tree ON runs (tree);
CREATE INDEX observations_by_run ON observations (run);
CREATE INDEX observations_by_test ON observations (test);
CREATE INDEX speed_runs_by_time ON speed_runs (started_ms);
CREATE INDEX measurements_by_run ON measurements (run);
COMMIT;
