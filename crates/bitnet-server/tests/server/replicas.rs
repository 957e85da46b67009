//! Replicas behind a balancer: every answer is the one that a server gives alone.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bitnet_server::ServerOptions;
use serde_json::{Value, json};

use crate::client::{Running, post_request, read_response, start};

/// A balancer that hands connections out in turn.
struct RoundRobin {
    address: SocketAddr,
    replicas: Arc<Mutex<Vec<SocketAddr>>>,
    /// Connections to each replica.
    n_sent: Arc<[AtomicUsize; 2]>,
}

impl RoundRobin {
    fn start(replicas: &[Running; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let balancer = Self {
            address: listener.local_addr().unwrap(),
            replicas: Arc::default(),
            n_sent: Arc::default(),
        };
        balancer.set(replicas);
        let (replicas, n_sent) = (Arc::clone(&balancer.replicas), Arc::clone(&balancer.n_sent));
        // It ends with the process.
        std::thread::spawn(move || {
            for (nth, client) in listener.incoming().enumerate() {
                let client = client.unwrap();
                let index = nth % 2;
                let server = TcpStream::connect(replicas.lock().unwrap()[index]).unwrap();
                n_sent[index].fetch_add(1, Ordering::Relaxed);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (mut from, mut to) in [(client, server), back] {
                    std::thread::spawn(move || {
                        // Whoever goes away ends both ways.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        balancer
    }

    /// Replaces the replicas.
    fn set(&self, replicas: &[Running; 2]) {
        *self.replicas.lock().unwrap() = replicas.iter().map(|server| server.address).collect();
    }
}

/// The texts, with all that does not depend on time.
fn outcome(address: SocketAddr, request: &Value) -> Value {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = post_request("/v1/completions", &request.to_string());
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let response = read_response(&mut stream);
    assert_eq!(response.status, 200, "{}", response.body);
    let answer = response.json();
    json!([
        answer["choices"],
        answer["seed"],
        answer["system_fingerprint"]
    ])
}

#[test]
fn two_replicas_answer_as_one_also_after_a_restart() {
    let new_replicas = || [(); 2].map(|()| start(ServerOptions::default()));
    let alone = start(ServerOptions {
        max_running: 1,
        ..ServerOptions::default()
    });
    // Prefixes that are shared, so that some are cached here and others there.
    let requests: Vec<Value> = (0..12)
        .map(|i| {
            json!({
                "prompt": format!("{} The {}", "Once upon a time there was a king.".repeat(i % 4),
                    ["king", "queen", "fox"][i % 3]),
                "max_tokens": 10 + 3 * i,
                "seed": i % 5,
                "temperature": ([0.0, 0.8, 1.0][i % 3]),
                "n": 1 + i % 2,
            })
        })
        .collect();
    let expected: Vec<Value> = (requests.iter())
        .map(|request| outcome(alone.address, request))
        .collect();
    let mut replicas = new_replicas();
    let balancer = RoundRobin::start(&replicas);
    for round in 0..2 {
        if round == 1 {
            replicas = new_replicas();
            balancer.set(&replicas);
        }
        // Each request twice, all at the same time.
        let answers: Vec<Value> = std::thread::scope(|scope| {
            let asked: Vec<_> = (requests.iter().chain(&requests))
                .map(|request| scope.spawn(|| outcome(balancer.address, request)))
                .collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap())
                .collect()
        });
        for (i, answer) in answers.iter().enumerate() {
            let nth = i % requests.len();
            assert_eq!(*answer, expected[nth], "{}", requests[nth]);
        }
    }
    drop(replicas);
    let n_sent: Vec<usize> = (balancer.n_sent.iter())
        .map(|n| n.load(Ordering::Relaxed))
        .collect();
    assert_eq!(n_sent, [24, 24]);
}
