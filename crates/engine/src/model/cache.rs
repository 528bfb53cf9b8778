//! Keys and values of the positions read so far.

use burn::tensor::{Device, Tensor};

/// Positions a cache starts with, and the least it grows by.
const STEP: usize = 128;

/// One stream's cache: for each layer `[capacity, kv_heads × head_dim]` of keys
/// and of values, in f32. Rows beyond [`KvCache::len`] hold nothing.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
    capacity: usize,
    width: usize,
    device: Device,
}

/// Taken out while it is written to, so that the buffer has one owner and is
/// changed in place.
#[derive(Default)]
struct LayerCache {
    keys: Option<Tensor<2>>,
    values: Option<Tensor<2>>,
}

impl KvCache {
    pub(super) fn new(layers: usize, width: usize, device: &Device) -> Self {
        Self {
            layers: (0..layers).map(|_| LayerCache::default()).collect(),
            len: 0,
            capacity: 0,
            width,
            device: device.clone(),
        }
    }

    /// Positions read so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for `tokens` more and returns the position of the first.
    pub(super) fn reserve(&mut self, tokens: usize) -> usize {
        let needed = self.len + tokens;
        if needed > self.capacity {
            let capacity = needed.max(2 * self.capacity).next_multiple_of(STEP);
            let more = [capacity - self.capacity, self.width];
            for layer in &mut self.layers {
                for half in [&mut layer.keys, &mut layer.values] {
                    let room = Tensor::zeros(more, &self.device);
                    *half = Some(match half.take() {
                        Some(filled) => Tensor::cat(vec![filled, room], 0),
                        None => room,
                    });
                }
            }
            self.capacity = capacity;
        }
        self.len
    }

    /// Writes the new rows of one layer; returns its keys and values.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        k: Tensor<2>,
        v: Tensor<2>,
    ) -> (Tensor<2>, Tensor<2>) {
        let [tokens, width] = k.dims();
        let rows = [self.len..self.len + tokens, 0..width];
        let layer = &mut self.layers[layer];
        let write = |half: &mut Option<Tensor<2>>, new| {
            let room = half.take().expect("reserve fills every layer");
            half.insert(room.slice_assign(rows.clone(), new)).clone()
        };
        (write(&mut layer.keys, k), write(&mut layer.values, v))
    }

    /// Counts rows that every layer has written.
    pub(super) fn commit(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
