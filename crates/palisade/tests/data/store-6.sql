PRAGMA application_id = 1347179332;
PRAGMA user_version = 6;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE IF NOT EXISTS "palisade_runs" (
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
INSERT INTO palisade_runs VALUES(1,'00000000-0000-4000-8000-000000000001',1000,2500,'tests','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',0,0,'main','rustc 1.95.0 x86_64-unknown-linux-gnu','linux x86_64, a processor, 2 cores','33','cargo-nextest 0.9, settings 44','"workspace"',1);
INSERT INTO palisade_runs VALUES(2,'00000000-0000-4000-8000-000000000002',3000,3100,'stress','1111111111111111111111111111111111111111','2222222222222222222222222222222222222222',1,1,NULL,'rustc 1.95.0 x86_64-unknown-linux-gnu','linux x86_64, a processor, 2 cores','33','cargo test, settings 44','{"tests":["a/lib/tests::x"]}',0);
CREATE TABLE IF NOT EXISTS "palisade_tests" (
        seq INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT;
INSERT INTO palisade_tests VALUES(1,'a/doc/src/lib.rs - f #2');
INSERT INTO palisade_tests VALUES(2,'a/lib/tests::x');
INSERT INTO palisade_tests VALUES(3,'a/test:it/y');
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
INSERT INTO palisade_observations VALUES(1,1,2,'pass',12.5,'55',NULL);
INSERT INTO palisade_observations VALUES(1,2,1,'fail',NULL,NULL,'left: 1');
INSERT INTO palisade_observations VALUES(1,3,3,'ignored',NULL,NULL,NULL);
INSERT INTO palisade_observations VALUES(2,1,2,'timed_out',2000.0,'55',NULL);
CREATE TABLE palisade_documents (
        seq INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        json TEXT NOT NULL,
        UNIQUE (kind, id)
    ) STRICT;
INSERT INTO palisade_documents VALUES(1,'baseline','00000000-0000-4000-8000-000000000003',2600,'{"record":"baseline","id":"00000000-0000-4000-8000-000000000003","recorded_ms":2600,"branch":"main","run":"00000000-0000-4000-8000-000000000001"}');
INSERT INTO palisade_documents VALUES(2,'quarantine','00000000-0000-4000-8000-000000000004',4000,'{"record":"quarantine","id":"00000000-0000-4000-8000-000000000004","at_ms":4000,"test":"a/lib/tests::x","event":{"event":"quarantined","owner":"ada","reason":"race","issue":null,"expires_ms":9000,"release_after":59}}');
INSERT INTO palisade_documents VALUES(3,'speed','00000000-0000-4000-8000-000000000005',5000,'{"record":"speed","id":"00000000-0000-4000-8000-000000000005","session":"00000000-0000-4000-8000-00000000000a","started_ms":5000,"finished_ms":6000,"purpose":"comparison","subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":true,"branch":"main"},"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"measurements":[{"benchmark":"sort/1k","measure":"time","values":[1001.5,1003.25]},{"benchmark":"sort/1k","measure":"peak_memory","values":[2097152.0]}]}');
INSERT INTO palisade_documents VALUES(4,'speed','00000000-0000-4000-8000-000000000006',7000,'{"record":"speed","id":"00000000-0000-4000-8000-000000000006","session":"00000000-0000-4000-8000-00000000000b","started_ms":7000,"finished_ms":8000,"purpose":"series","subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":true,"branch":null},"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"measurements":[]}');
INSERT INTO palisade_documents VALUES(5,'calibration','00000000-0000-4000-8000-000000000007',9000,'{"record":"calibration","id":"00000000-0000-4000-8000-000000000007","at_ms":9000,"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"spreads":[{"benchmark":"sort/1k","measure":"time","comparisons":20,"spread":0.0025}],"false_alarms":{"found":0,"of":20},"detections":[{"slowdown":0.05,"rate":{"found":19,"of":20}}]}');
INSERT INTO palisade_documents VALUES(6,'milestone','00000000-0000-4000-8000-000000000008',9500,'{"record":"milestone","id":"00000000-0000-4000-8000-000000000008","name":"0.1","set_ms":9500,"subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":false,"branch":"main"}}');
INSERT INTO palisade_documents VALUES(7,'milestone','00000000-0000-4000-8000-000000000009',9501,'{"record":"milestone","id":"00000000-0000-4000-8000-000000000009","name":"0.2","set_ms":9501,"subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":false,"branch":"main"},"snapshot":{"tests":{"environment":{"toolchain":"rustc 1.95.0 x86_64-unknown-linux-gnu","machine":"linux x86_64, a processor, 2 cores","lockfile":"33","config":"cargo-nextest 0.9, settings 44"},"states":{"passing":{"a/lib/tests::x":"55"},"failing":{"a/doc/src/lib.rs - f #2":null},"ignored":{"a/test:it/y":null}}},"speed":[{"id":"00000000-0000-4000-8000-000000000006","session":"00000000-0000-4000-8000-00000000000b","started_ms":7000,"finished_ms":8000,"purpose":"series","subject":{"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","dirty":false,"checkout":true,"branch":null},"fingerprint":{"cores":"2","processor":"a processor","rustc":"rustc 1.95.0"},"measurements":[]}],"claims":[{"document":"README.md","name":"size","written":"11.5","state":"holds","found":11.498}]}}');
INSERT INTO palisade_documents VALUES(8,'incident','00000000-0000-4000-8000-000000000010',9550,'{"record":"incident","id":"00000000-0000-4000-8000-000000000010","opened_ms":9510,"closed_ms":9550,"question":{"test":"a/lib/tests::x"},"good":"3333333333333333333333333333333333333333","bad":"2222222222222222222222222222222222222222","timeline":[{"stage":"confirm","at_ms":9520,"seconds":1.5,"words":"it failed in 3 of 3 runs"}],"confirmation":{"failures":3,"passes":0,"ratio":null,"is_red":true,"is_unknown":false},"bisection":null,"revert":null,"validation":null,"monitor":null}');
INSERT INTO palisade_documents VALUES(9,'journal','00000000-0000-4000-8000-000000000020',9600,'{"record":"journal","id":"00000000-0000-4000-8000-000000000020","at_ms":9600,"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","event":{"event":"hooks_installed"}}');
INSERT INTO palisade_documents VALUES(10,'journal','00000000-0000-4000-8000-000000000021',9601,'{"record":"journal","id":"00000000-0000-4000-8000-000000000021","at_ms":9601,"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","event":{"event":"hook_ran","hook":"pre-commit","exit_code":0}}');
INSERT INTO palisade_documents VALUES(11,'journal','00000000-0000-4000-8000-000000000022',9602,'{"record":"journal","id":"00000000-0000-4000-8000-000000000022","at_ms":9602,"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","event":{"event":"hook_bypassed","hook":"pre-commit"}}');
INSERT INTO palisade_documents VALUES(12,'journal','00000000-0000-4000-8000-000000000023',9603,'{"record":"journal","id":"00000000-0000-4000-8000-000000000023","at_ms":9603,"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","event":{"event":"approved","by":"Ben <ben@example.org>","note":"ran it"}}');
INSERT INTO palisade_documents VALUES(13,'journal','00000000-0000-4000-8000-000000000024',9604,'{"record":"journal","id":"00000000-0000-4000-8000-000000000024","at_ms":9604,"tree":"1111111111111111111111111111111111111111","commit":"2222222222222222222222222222222222222222","event":{"event":"scored","level":"critical","found":1,"missed":["a/lib/tests::x"]}}');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('palisade_runs',2);
CREATE INDEX runs_by_tree ON "palisade_runs" (tree);
CREATE INDEX palisade_observations_by_test ON palisade_observations (test);
CREATE INDEX palisade_documents_by_time ON palisade_documents (kind, at_ms);
COMMIT;
