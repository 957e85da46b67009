//! The forward pass on a GPU: rows, pages and requests, as the device wants them.

use std::sync::Arc;

use bitnet_core::HybridMemoryPool;
use bitnet_core::memory::{Category, Counted};
use bitnet_gpu::{
    AdapterInfo, GpuError, GpuModel, Output, OutputKind, OutputValues, Place, Row, Session,
};

use crate::device::DeviceError;
use crate::kv_cache::device_pages::{DevicePages, PageChange};
use crate::pass::{Batch, NotFinite, PassError};
use crate::plan::{Plan, PlanError};

/// The forward pass on a GPU: its buffers there.
#[derive(Debug)]
pub(crate) struct GpuForward {
    session: Session,
    /// The logits of a row of which the device returned the largest, `[vocab_size]`.
    logits: Vec<f32>,
    /// Accounts for the memory of the device.
    _on_device: Counted,
}

impl GpuForward {
    /// Allocates the buffers and the KV pages of a plan.
    pub(crate) fn new(
        model: &Arc<GpuModel>,
        plan: &Plan,
        pool: &HybridMemoryPool,
    ) -> Result<Self, PlanError> {
        let options = plan.session_options();
        let session = Session::new(Arc::clone(model), options).map_err(DeviceError::from)?;
        Ok(Self {
            _on_device: pool.count(Category::Device, options.required_bytes(model.shape())),
            logits: vec![f32::NEG_INFINITY; model.shape().vocab_size],
            session,
        })
    }

    /// Returns the adapter.
    pub(crate) fn adapter(&self) -> &AdapterInfo {
        self.session.model().gpu().info()
    }

    /// Returns the page tables of so many sequences; all pages are free.
    pub(crate) fn pages(&self, n_sequences: usize) -> DevicePages {
        let n_pages = self.session.options().n_pages;
        DevicePages::new(n_sequences, n_pages, self.session.page_bytes())
    }

    /// Computes the rows of a batch, stores their keys and values in reserved pages, and
    /// passes the requested logits to `on_logits(input, token, logits)`. If only the largest
    /// logits are requested, the others are minus infinity.
    pub(crate) fn pass(
        &mut self,
        batch: &Batch,
        pages: &mut DevicePages,
        on_logits: &mut impl FnMut(usize, usize, &[f32]),
    ) -> Result<(), PassError> {
        self.change(pages)?;
        let mut sequences: Vec<usize> = batch.rows.iter().map(|row| row.sequence).collect();
        sequences.sort_unstable();
        sequences.dedup();
        let table_of = |sequence: &usize| -> Vec<u32> {
            let table = pages.tables().pages(*sequence).iter();
            table.map(|page| page.index() as u32).collect()
        };
        let tables: Vec<_> = sequences.iter().map(table_of).collect();
        let tables: Vec<_> = tables.iter().map(Vec::as_slice).collect();
        let row = |(&token, at): (&u32, &bitnet_core::RowPosition)| Row {
            token,
            position: at.position as u32,
            page_table: sequences.partition_point(|other| *other < at.sequence),
        };
        let rows: Vec<_> = batch.tokens.iter().zip(&batch.rows).map(row).collect();
        let outputs: Vec<_> = (batch.requests.iter())
            .map(|request| Output {
                row: request.row,
                kind: match request.top {
                    _ if request.hidden => OutputKind::Hidden,
                    Some(k) => OutputKind::Top(k),
                    None => OutputKind::Logits,
                },
            })
            .collect();
        let logits = &mut self.logits;
        let mut on_output = |i: usize, values: OutputValues<'_>| {
            let request = batch.requests[i];
            match values {
                OutputValues::Values(values) => on_logits(request.input, request.token, values),
                OutputValues::Top(top) => {
                    for &(id, logit) in top {
                        logits[id as usize] = logit;
                    }
                    on_logits(request.input, request.token, logits);
                    for &(id, _) in top {
                        logits[id as usize] = f32::NEG_INFINITY;
                    }
                }
            }
        };
        (self.session).pass(&rows, &tables, &outputs, &mut on_output)?;
        Ok(())
    }

    /// Returns the contents of a page.
    pub(crate) fn read_page(
        &mut self,
        pages: &mut DevicePages,
        index: usize,
    ) -> Result<Vec<u8>, GpuError> {
        self.change(pages)?;
        self.session.read_page(index as u32)
    }

    /// Makes the changes of pages that are not made yet.
    fn change(&mut self, pages: &mut DevicePages) -> Result<(), GpuError> {
        for change in pages.take_changes() {
            match change {
                PageChange::Copy { from, to } => self.session.copy_page(from as u32, to as u32),
                PageChange::Write { to, bytes } => self.session.write_page(to as u32, &bytes),
            }?;
        }
        Ok(())
    }
}

impl From<bitnet_gpu::PassError> for PassError {
    fn from(error: bitnet_gpu::PassError) -> Self {
        match error {
            bitnet_gpu::PassError::NotFinite { place } => Self::NotFinite(match place {
                Place::Token(token) => NotFinite::Token(token),
                Place::Attention(layer) => NotFinite::Attention(layer),
                Place::FeedForward(layer) => NotFinite::FeedForward(layer),
                Place::Head => NotFinite::Head,
            }),
            error => Self::Device(error.to_string()),
        }
    }
}

impl From<GpuError> for PassError {
    fn from(error: GpuError) -> Self {
        Self::Device(error.to_string())
    }
}
