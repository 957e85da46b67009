//! Token ids that Python gives.

use pyo3::prelude::*;

use crate::errors;

/// Returns token ids.
///
/// # Errors
///
/// Returns an error if one is negative or too large.
pub fn token_ids(py: Python<'_>, ids: Vec<i64>) -> PyResult<Vec<u32>> {
    let wrong = |id: i64| errors::invalid(py, &format!("there is no token {id}"));
    let ids = ids.into_iter();
    ids.map(|id| u32::try_from(id).map_err(|_| wrong(id)))
        .collect()
}
