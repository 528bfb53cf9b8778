//! The graphics adapter of this process, in a program built for one.

use burn::tensor::Device;

use crate::kernel::KernelUnavailable;

/// An adapter that decoders compute on.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) device: Device,
    /// The adapter and its driver, in characters of a numerics id.
    pub(crate) name: String,
    /// The most bytes a matrix may have in one piece.
    pub(crate) piece_bytes: usize,
}

/// The adapter, opened by the first call: the best there is, or the one that
/// `CUBECL_WGPU_DEFAULT_DEVICE` names.
#[cfg(feature = "wgpu")]
pub(crate) fn open() -> Result<&'static Adapter, KernelUnavailable> {
    use std::sync::OnceLock;

    static ADAPTER: OnceLock<Result<Adapter, KernelUnavailable>> = OnceLock::new();
    let opened = ADAPTER.get_or_init(|| {
        wgpu::open().map_err(|error| KernelUnavailable::Adapter {
            reason: error.to_string(),
        })
    });
    opened.as_ref().map_err(Clone::clone)
}

/// This program was built without.
#[cfg(not(feature = "wgpu"))]
pub(crate) fn open() -> Result<&'static Adapter, KernelUnavailable> {
    Err(KernelUnavailable::NotBuilt)
}

/// Whether tensors of this device are on an adapter: the models' own operations
/// are Flex's.
pub(crate) fn holds(device: &Device) -> bool {
    cfg!(feature = "wgpu") && *device != Device::flex()
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use burn::tensor::Device;
    use burn::tensor::wgpu::WgpuInitError;
    use burn::tensor::wgpu::wgpu::DeviceType;

    use super::Adapter;

    /// Matrices of more bytes are cut, whatever the adapter takes.
    const MOST_PIECE_BYTES: u64 = 1 << 28;
    /// Characters of the adapter's name and of its driver's in a numerics id.
    const NAME: usize = 48;
    const DRIVER: usize = 32;

    pub(super) fn open() -> Result<Adapter, WgpuInitError> {
        let (device, setup) = Device::wgpu_options().init_with_setup()?;
        let info = setup.adapter.get_info();
        let limits = setup.device.limits();
        let binding = limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size);
        // Memory is handed out in pages: half a binding leaves room for that.
        let piece = (binding / 2).min(MOST_PIECE_BYTES);
        let name = format!(
            "{}-{}",
            slug(&info.name, NAME),
            slug(&info.driver_info, DRIVER)
        );
        let (adapter, api) = (&info.name, info.backend);
        match info.device_type {
            DeviceType::Cpu => tracing::warn!(
                adapter,
                ?api,
                "the graphics adapter is a program on the processor: slower than engine.kernel = auto"
            ),
            _ => tracing::info!(adapter, ?api, "graphics adapter opened"),
        }
        Ok(Adapter {
            device,
            name,
            piece_bytes: usize::try_from(piece).unwrap_or(usize::MAX),
        })
    }

    /// Letters and digits, everything else one dash.
    fn slug(text: &str, most: usize) -> String {
        let mut slug = String::new();
        for c in text.chars() {
            match c.to_ascii_lowercase() {
                c if c.is_ascii_alphanumeric() || c == '.' => slug.push(c),
                _ if slug.ends_with('-') => {}
                _ => slug.push('-'),
            }
        }
        slug.truncate(most);
        slug.trim_matches('-').to_owned()
    }

    #[cfg(test)]
    mod tests {
        use super::slug;

        #[test]
        fn names_of_adapters_fit_a_numerics_id() {
            assert_eq!(
                slug("llvmpipe (LLVM 15.0.6, 256 bits)", 48),
                "llvmpipe-llvm-15.0.6-256-bits"
            );
            assert_eq!(slug("Карта", 48), "");
            assert_eq!(slug("a b c", 4), "a-b");
        }
    }
}
