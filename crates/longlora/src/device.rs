//! The device to compute on: its name on the command line, and the device itself.

use std::fmt;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::str::FromStr;

use anyhow::{Result, anyhow, bail, ensure};
#[cfg(feature = "wgpu")]
use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use burn::tensor::DeviceType;
use burn::tensor::{Device, Tensor};

/// Where to compute, as an option.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: flex (the CPU), cuda, wgpu, vulkan or metal; with a number if there are several, as in cuda:1.
    /// `longlora devices` lists them
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    device: DeviceName,
}

impl DeviceArgs {
    /// The device, which was seen to compute.
    pub(crate) fn open(&self) -> Result<Device> {
        self.device.open()
    }
}

impl fmt::Display for DeviceArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)
    }
}

/// `cuda:1`: a way to compute, and which of the devices that it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceName {
    pub(crate) kind: DeviceKind,
    /// From 0, the best first.
    pub(crate) number: usize,
}

/// A way to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// The processor, all cores.
    Flex,
    /// NVIDIA's own.
    Cuda,
    /// Vulkan, Metal or whatever else the machine has, as wgpu chooses.
    Wgpu,
    Vulkan,
    /// Apple's own.
    Metal,
}

impl DeviceKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Flex, Self::Cuda, Self::Wgpu, Self::Vulkan, Self::Metal];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
        }
    }

    /// The devices of this machine that it reaches, the best first; `None` if this build has no code for it.
    pub(crate) fn devices(self) -> Option<Vec<Device>> {
        match self {
            Self::Flex => Some(vec![Device::flex()]),
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(Device::enumerate(DeviceType::Cuda).into_vec()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(best_first(DeviceType::Wgpu)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(best_first(DeviceType::Vulkan)),
            #[cfg(feature = "metal")]
            Self::Metal => Some(best_first(DeviceType::Metal)),
            #[cfg(not(all(feature = "cuda", feature = "vulkan", feature = "metal")))]
            _ => None,
        }
    }

    /// The devices of this machine that it reaches, at least one.
    pub(crate) fn found(self) -> Result<Vec<Device>> {
        let Some(devices) = self.devices() else {
            bail!("this build cannot compute on `{}`; {}", self.name(), self.how_to_build());
        };
        ensure!(
            !devices.is_empty(),
            "there is no `{}` device on this machine: {}",
            self.name(),
            self.needs()
        );
        Ok(devices)
    }

    /// How to get a build with it.
    pub(crate) fn how_to_build(self) -> String {
        format!("`cargo xtask build --device {}` makes one that can", self.name())
    }

    /// Why there may be none.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Flex => "it is the processor's",
            Self::Cuda => "it needs an NVIDIA GPU and its driver, which brings libcuda",
            Self::Wgpu => "it needs a GPU whose driver speaks Vulkan, Metal or OpenGL",
            Self::Vulkan => {
                "it needs libvulkan and a driver that speaks Vulkan; Mesa's, in mesa-vulkan-drivers, also computes on \
                 the processor"
            }
            Self::Metal => "it needs a Mac",
        }
    }
}

impl DeviceName {
    fn open(self) -> Result<Device> {
        let kind = self.kind;
        let devices = kind.found()?;
        let count = devices.len();
        let device = devices.into_iter().nth(self.number).ok_or_else(|| {
            anyhow!(
                "there is no `{self}` on this machine, the last one is `{}:{}`",
                kind.name(),
                count - 1
            )
        })?;
        if kind != DeviceKind::Flex {
            self.try_out(&device)?;
        }
        Ok(device)
    }

    /// Has it compute something, so that what is missing is told in one sentence now, not by a panic in the middle of a
    /// run. On CUDA, that is a driver too old, or NVRTC and the headers of the toolkit, with which kernels are compiled.
    fn try_out(self, device: &Device) -> Result<()> {
        let computed = quietly(|| {
            let sum = Tensor::<1>::ones([2], device) + 1.0;
            let sum = sum.try_into_data().map_err(|error| error.to_string())?;
            if sum.iter::<f32>().all(|number| number == 2.0) {
                Ok(())
            } else {
                Err(format!("1 + 1 is {sum} there"))
            }
        });
        computed.map_err(|reason| {
            let toolkit = match self.kind {
                DeviceKind::Cuda => {
                    "; kernels are compiled with NVRTC, so it needs the CUDA toolkit's libnvrtc and its headers, in the \
                     folder that CUDA_PATH names or /usr/local/cuda"
                }
                _ => "",
            };
            anyhow!("`{self}` does not compute: {reason}{toolkit}")
        })
    }
}

/// Whether it is no GPU.
pub(crate) fn is_processor(device: &Device) -> bool {
    *device == Device::flex()
}

/// Runs `work` with the panics of all threads caught and unheard: drivers that are not there are panics to burn.
pub(crate) fn quietly<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let done = catch_unwind(std::panic::AssertUnwindSafe(work));
    set_hook(hook);
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or_else(|| panic.downcast_ref().copied()).unwrap_or("it panics").to_owned())
    })
    .map_err(|reason| reason.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// By what they are: cards first, the processor last.
#[cfg(feature = "wgpu")]
fn best_first(kind: DeviceType) -> Vec<Device> {
    let mut devices = Device::enumerate(kind).into_vec();
    devices.sort_by_key(|device| match wgpu_kind(device) {
        Some(WgpuDeviceKind::DiscreteGpu(_)) => 0,
        Some(WgpuDeviceKind::IntegratedGpu(_)) => 1,
        Some(WgpuDeviceKind::VirtualGpu(_)) => 2,
        Some(WgpuDeviceKind::Cpu) => 4,
        _ => 3,
    });
    devices
}

/// What kind of device it is, and its own name. Opens it.
pub(crate) fn description(device: &Device) -> (&'static str, String) {
    description_of_gpu(device).unwrap_or_else(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        ("CPU", format!("{threads} threads"))
    })
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn description_of_gpu(_: &Device) -> Option<(&'static str, String)> {
    None
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn description_of_gpu(device: &Device) -> Option<(&'static str, String)> {
    let kind = kind_by_wgpu(device).unwrap_or("NVIDIA GPU");
    device.identity().map(|identity| (kind, identity.name))
}

#[cfg(all(feature = "cuda", not(feature = "wgpu")))]
fn kind_by_wgpu(_: &Device) -> Option<&'static str> {
    None
}

#[cfg(feature = "wgpu")]
fn kind_by_wgpu(device: &Device) -> Option<&'static str> {
    wgpu_kind(device).map(|kind| match kind {
        WgpuDeviceKind::DiscreteGpu(_) => "discrete GPU",
        WgpuDeviceKind::IntegratedGpu(_) => "integrated GPU",
        WgpuDeviceKind::VirtualGpu(_) => "virtual GPU",
        WgpuDeviceKind::Cpu => "CPU, as a GPU",
        _ => "GPU",
    })
}

/// What wgpu says it is, if it is wgpu's.
#[cfg(feature = "wgpu")]
fn wgpu_kind(device: &Device) -> Option<&WgpuDeviceKind> {
    match device.as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Wgpu(device)) => Some(&device.kind),
        _ => None,
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Flex => f.write_str(self.kind.name()),
            kind => write!(f, "{}:{}", kind.name(), self.number),
        }
    }
}

impl FromStr for DeviceKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some((name, _)) = text.split_once(':') {
            bail!("`{text}` is one device; name its kind alone, `{name}`");
        }
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            anyhow!("`{text}` is no device; use {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

impl FromStr for DeviceName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let kind: DeviceKind = name.parse()?;
        let number = match number {
            None => 0,
            Some(_) if kind == DeviceKind::Flex => bail!("there is one processor; use `flex`"),
            Some(number) => number.parse().map_err(|_| {
                anyhow!("`{number}` is no number of a device; use `{name}`, or `{name}:1` for the second one")
            })?,
        };
        Ok(Self { kind, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_name_and_perhaps_a_number() {
        let parsed = |text: &str| text.parse::<DeviceName>().unwrap();
        for (text, kind, number) in [
            ("flex", DeviceKind::Flex, 0),
            ("cuda", DeviceKind::Cuda, 0),
            ("cuda:1", DeviceKind::Cuda, 1),
            ("wgpu", DeviceKind::Wgpu, 0),
            ("vulkan:12", DeviceKind::Vulkan, 12),
            ("metal", DeviceKind::Metal, 0),
        ] {
            assert_eq!(parsed(text), DeviceName { kind, number }, "{text}");
        }
        assert_eq!(parsed("flex").to_string(), "flex");
        assert_eq!(parsed("cuda").to_string(), "cuda:0");
    }

    #[test]
    fn what_is_no_name_is_told_with_what_is() {
        let refused = |text: &str| text.parse::<DeviceName>().unwrap_err().to_string();
        assert_eq!(refused("tpu"), "`tpu` is no device; use flex, cuda, wgpu, vulkan, metal");
        assert_eq!(refused("CUDA:0"), "`CUDA` is no device; use flex, cuda, wgpu, vulkan, metal");
        assert_eq!(refused("flex:0"), "there is one processor; use `flex`");
        for number in ["", "-1", "one", "1:2"] {
            let error = refused(&format!("cuda:{number}"));
            assert!(error.starts_with(&format!("`{number}` is no number")), "{error}");
        }
    }

    #[test]
    fn a_kind_is_named_without_a_number() {
        for kind in DeviceKind::ALL {
            assert_eq!(kind.name().parse::<DeviceKind>().unwrap(), kind);
        }
        let refused = |text: &str| text.parse::<DeviceKind>().unwrap_err().to_string();
        assert_eq!(refused("tpu"), "`tpu` is no device; use flex, cuda, wgpu, vulkan, metal");
        assert_eq!(refused("cuda:1"), "`cuda:1` is one device; name its kind alone, `cuda`");
    }

    #[test]
    fn panics_are_caught_and_told_in_one_line() {
        let told = |work: fn() -> Result<(), String>| quietly(work).unwrap_err();
        assert_eq!(told(|| panic!("no\n   driver")), "no driver");
        assert_eq!(told(|| panic!("no {}", "driver")), "no driver");
        assert_eq!(told(|| Err("a\nb".to_owned())), "a b");
        assert_eq!(quietly(|| Ok(1)), Ok(1));
    }
}
