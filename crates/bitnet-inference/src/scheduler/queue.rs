//! Waiting tasks: one queue per client, served in turn.

use std::collections::VecDeque;

use super::TaskId;
use super::active::Active;

/// A task that has not been started.
#[derive(Debug)]
pub(super) struct Waiting(pub(super) Active);

/// The queues of the clients. The first one is served next.
#[derive(Debug, Default)]
pub(super) struct ClientQueues {
    queues: VecDeque<(u64, VecDeque<Waiting>)>,
}

impl ClientQueues {
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|(_, tasks)| tasks.len()).sum()
    }

    pub(super) fn push(&mut self, client: u64, task: Waiting) {
        let known = self.queues.iter_mut().find(|(id, _)| *id == client);
        match known {
            Some((_, tasks)) => tasks.push_back(task),
            None => self.queues.push_back((client, VecDeque::from([task]))),
        }
    }

    /// Removes the first ready task of the first client that has one, and makes the client
    /// the last. Returns its client, too.
    pub(super) fn take(&mut self, is_ready: impl Fn(&Waiting) -> bool) -> Option<(u64, Waiting)> {
        for turn in 0..self.queues.len() {
            let (client, tasks) = &mut self.queues[turn];
            let client = *client;
            if let Some(at) = tasks.iter().position(&is_ready) {
                let task = tasks.remove(at)?;
                let rest = self.queues.remove(turn)?;
                if !rest.1.is_empty() {
                    self.queues.push_back(rest);
                }
                return Some((client, task));
            }
        }
        None
    }

    /// Puts back a task as the next one.
    pub(super) fn put_back(&mut self, client: u64, task: Waiting) {
        let at = self.queues.iter().position(|(id, _)| *id == client);
        let mut tasks = at
            .and_then(|at| self.queues.remove(at))
            .map_or_else(VecDeque::new, |(_, tasks)| tasks);
        tasks.push_front(task);
        self.queues.push_front((client, tasks));
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        for (_, tasks) in &mut self.queues {
            tasks.retain(|Waiting(task)| task.id != id);
        }
        self.queues.retain(|(_, tasks)| !tasks.is_empty());
    }
}
