//! The commits that a change lies among, and which of them hold which.

/// A set of suspects, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suspects(Vec<u64>);

impl Suspects {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    pub(super) fn insert(&mut self, suspect: usize) {
        self.0[suspect / 64] |= 1 << (suspect % 64);
    }

    pub(super) fn contains(&self, suspect: usize) -> bool {
        self.0[suspect / 64] >> (suspect % 64) & 1 == 1
    }

    fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own |= other;
        }
    }
}

/// A commit with the commits it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The commit.
    pub id: String,
    /// Its parents, also those that are no suspects.
    pub parents: Vec<String>,
}

/// Why there is nothing to search.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The good end holds all of the bad one.
    #[error("failed to find a commit between {good} and the bad end")]
    Empty {
        /// The good end.
        good: String,
    },
    /// A commit stands before one of its parents.
    #[error("failed to list {commit} after its parents")]
    Order {
        /// The commit.
        commit: String,
    },
}

/// The suspects, oldest first, and the good end. The suspects are all that the bad end
/// holds and the good end does not; the last of them is the bad end.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    /// What each commit holds of the suspects: itself and those before it. The last is
    /// the good end, which holds none.
    holds: Vec<Suspects>,
}

impl Graph {
    /// The graph of all commits that the last of `suspects` holds and `good` does not.
    /// Each stands after its parents, as `git rev-list --reverse --topo-order` lists them.
    pub fn new(good: &str, suspects: Vec<Node>) -> Result<Self, GraphError> {
        if suspects.is_empty() {
            let good = good.to_owned();
            return Err(GraphError::Empty { good });
        }
        let count = suspects.len();
        let place = |id: &str| suspects.iter().position(|node| node.id == id);
        let mut holds: Vec<Suspects> = Vec::with_capacity(count + 1);
        for (at, node) in suspects.iter().enumerate() {
            let mut own = Suspects::none(count);
            own.insert(at);
            for parent in node.parents.iter().filter_map(|parent| place(parent)) {
                let Some(held) = holds.get(parent) else {
                    let commit = node.id.clone();
                    return Err(GraphError::Order { commit });
                };
                own.add(held);
            }
            holds.push(own);
        }
        holds.push(Suspects::none(count));
        let mut nodes = suspects;
        nodes.push(Node {
            id: good.to_owned(),
            parents: Vec::new(),
        });
        Ok(Self { nodes, holds })
    }

    /// How many suspects there are.
    pub fn suspects(&self) -> usize {
        self.nodes.len() - 1
    }

    /// All commits: the suspects, oldest first, and then the good end.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The place of a commit among [`nodes`](Self::nodes).
    pub fn place(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    pub(super) fn good(&self) -> usize {
        self.nodes.len() - 1
    }

    pub(super) fn bad(&self) -> usize {
        self.nodes.len() - 2
    }

    /// Whether what a suspect changed is in a commit.
    pub(super) fn holds(&self, commit: usize, suspect: usize) -> bool {
        self.holds[commit].contains(suspect)
    }

    /// The parents of a suspect that are in the graph; the good end stands for those that
    /// are not.
    pub(super) fn parents(&self, suspect: usize) -> Vec<usize> {
        let parents = self.nodes[suspect].parents.iter();
        let mut found: Vec<usize> = parents.filter_map(|parent| self.place(parent)).collect();
        if found.is_empty() {
            found.push(self.good());
        }
        found
    }

    /// The suspects that no commit of `measurable` tells apart, as one list each.
    pub(super) fn classes(&self, measurable: &[usize]) -> Vec<Vec<usize>> {
        let mut signed: Vec<(Suspects, usize)> = (0..self.suspects())
            .map(|suspect| {
                let mut holders = Suspects::none(measurable.len().max(1));
                for (at, commit) in measurable.iter().enumerate() {
                    if self.holds(*commit, suspect) {
                        holders.insert(at);
                    }
                }
                (holders, suspect)
            })
            .collect();
        signed.sort();
        let alike = signed.chunk_by(|a, b| a.0 == b.0);
        alike
            .map(|class| class.iter().map(|(_, suspect)| *suspect).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph from `commit:parent,parent` words.
    pub(crate) fn graph(words: &str) -> Graph {
        let node = |word: &str| {
            let (id, parents) = word.split_once(':').expect("commit:parents");
            Node {
                id: id.to_owned(),
                parents: parents.split(',').map(str::to_owned).collect(),
            }
        };
        Graph::new("good", words.split(' ').map(node).collect()).expect("a graph")
    }

    #[test]
    fn a_merge_holds_both_of_its_sides() {
        let graph = graph("a:good b:a s:old t:s m:b,t z:m");
        let held = |id: &str| {
            let commit = graph.place(id).expect("there");
            let names = (0..graph.suspects()).filter(|s| graph.holds(commit, *s));
            names
                .map(|s| graph.nodes()[s].id.as_str())
                .collect::<String>()
        };
        assert_eq!(held("b"), "ab");
        assert_eq!(held("t"), "st");
        assert_eq!(held("z"), "abstmz");
        assert_eq!(held("good"), "");
        assert_eq!(graph.parents(0), [graph.good()]);
    }

    #[test]
    fn what_cannot_be_measured_keeps_suspects_together() {
        let graph = graph("a:good b:a c:b d:c");
        let all = graph.classes(&[0, 1, 2, 3]);
        assert_eq!(all.len(), 4);
        // Without c, a change of c is first seen in d.
        let mut classes = graph.classes(&[0, 1, 3]);
        classes.sort();
        assert_eq!(classes, [vec![0], vec![1], vec![2, 3]]);
    }

    #[test]
    fn nothing_between_and_a_wrong_order_are_errors() {
        let empty = Graph::new("good", Vec::new()).expect_err("nothing to search");
        assert_eq!(
            empty.to_string(),
            "failed to find a commit between good and the bad end"
        );
        let node = |id: &str, parent: &str| Node {
            id: id.to_owned(),
            parents: vec![parent.to_owned()],
        };
        let turned = Graph::new("good", vec![node("b", "a"), node("a", "good")]);
        assert!(matches!(turned, Err(GraphError::Order { commit }) if commit == "b"));
    }
}
