//! A FalkorDB graph, described by ordered queries: no digest of the server's sees into one.

use serde::{Deserialize, Serialize};

use redis::Value;

use crate::server::{Cli, array, text};

/// All of a graph, each part as lines of text in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    parts: Vec<(String, Vec<String>)>,
}

const QUERIES: [(&str, &str); 4] = [
    ("nodes", "MATCH (n) RETURN ID(n), labels(n), properties(n) ORDER BY ID(n)"),
    ("edges", "MATCH (a)-[e]->(b) RETURN ID(e), type(e), ID(a), ID(b), properties(e) ORDER BY ID(e)"),
    ("indexes", "CALL db.indexes() YIELD label, properties, types, language, stopwords, entitytype, status"),
    ("constraints", "CALL db.constraints() YIELD type, label, properties, entitytype, status"),
];

impl Graph {
    /// Asks for all of the graph `key` in the selected database.
    ///
    /// # Panics
    /// When the server refuses a query.
    pub fn capture(cli: &mut Cli, key: &[u8]) -> Self {
        let parts = QUERIES.iter().map(|(part, query)| {
            let reply = cli.command(&[b"GRAPH.RO_QUERY".as_slice(), key, query.as_bytes()]);
            // header, rows, statistics; the last tell how long the query took
            let rows = array(&reply).get(1).map(array).unwrap_or_default();
            let mut lines: Vec<_> = rows.iter().map(line).collect();
            if *part == "indexes" || *part == "constraints" {
                lines.sort();
            }
            ((*part).to_owned(), lines)
        });
        Self { parts: parts.collect() }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.parts.first().map_or(0, |(_, lines)| lines.len())
    }

    pub(crate) fn compare(&self, place: &str, actual: &Self, found: &mut Vec<String>) {
        for ((part, expected), (_, actual)) in self.parts.iter().zip(&actual.parts) {
            for line in expected.iter().filter(|line| !actual.contains(line)) {
                found.push(format!("{place}: {part} lost {line}"));
            }
            for line in actual.iter().filter(|line| !expected.contains(line)) {
                found.push(format!("{place}: {part} should not have {line}"));
            }
            if expected.len() != actual.len() {
                found.push(format!("{place}: {} {part} became {}", expected.len(), actual.len()));
            }
        }
    }
}

fn line(row: &Value) -> String {
    match row {
        Value::Array(cells) => {
            let cells: Vec<_> = cells.iter().map(line).collect();
            format!("[{}]", cells.join(", "))
        }
        Value::Nil => "null".to_owned(),
        cell => text(cell),
    }
}
