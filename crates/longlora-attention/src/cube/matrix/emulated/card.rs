//! CUDA's C++ of a kernel, on a card that is none: see `card.hpp`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use cubecl::ir::{AddressType, ElemType};
use cubecl::{Compiler, CubeKernel, InfoBuilder};
use cubecl_cpp::shared::CppCompiler;
use cubecl_cpp::target::Cuda;
use tempfile::TempDir;

/// A tensor as a kernel takes it.
pub(super) struct Argument {
    pub(super) bytes: Vec<u8>,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A kernel, compiled for the card.
pub(super) struct Kernel {
    folder: TempDir,
    shared_memory: usize,
}

/// How a kernel is launched.
pub(super) struct Launch {
    pub(super) grid: [usize; 3],
    pub(super) planes: usize,
    pub(super) scale: f32,
    /// Whether the last threads run ahead of the others, and not the first ones.
    pub(super) last_first: bool,
}

impl Kernel {
    pub(super) fn compile(kernel: &impl CubeKernel) -> Self {
        let kernel = CppCompiler::<Cuda>::default()
            .compile(kernel.define(), &Default::default())
            .expect("CubeCL writes C++ of it");
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("it can be written there");
        };
        write("card.hpp", include_str!("card.hpp"));
        write("kernel.cpp", &for_the_card(&kernel.source));
        let compiler = Command::new("c++")
            .args(["-std=c++20", "-O1", "-w", "-fsanitize=address", "kernel.cpp", "-o", "kernel"])
            .current_dir(folder.path())
            .output()
            .expect("kernels of matrix units are tested with a C++ compiler, `c++`");
        let said = String::from_utf8_lossy(&compiler.stderr);
        assert!(compiler.status.success(), "{said}");
        Self { folder, shared_memory: kernel.shared_memory_size }
    }

    /// The bytes of all arguments after a launch.
    pub(super) fn launch<const N: usize>(
        &self,
        launch: &Launch,
        arguments: &[Argument; N],
    ) -> [Vec<u8>; N] {
        let mut info = InfoBuilder::default();
        for Argument { bytes, shape, strides } in arguments {
            // As CubeCL's launcher does: a tensor's length and rank are scalars, too. These kernels ask for neither.
            for number in [bytes.len() as u32, shape.len() as u32] {
                info.scalars.push_raw(&number.to_ne_bytes(), ElemType::Index);
            }
            let (shape, strides) = (shape.clone().into(), strides.clone().into());
            info.metadata.register_tensor(bytes.len() as u64, shape, strides, AddressType::U32);
        }
        info.scalars.push(launch.scale);
        let info = info.finish(AddressType::U32).data;
        let info: Vec<u8> = info.into_iter().flat_map(u64::to_ne_bytes).collect();

        let [x, y, z] = launch.grid;
        let head = [usize::from(launch.last_first), x, y, z, 32, launch.planes, 1];
        let head = head.into_iter().chain([self.shared_memory, arguments.len() + 1]);
        let mut input: Vec<u8> = head.flat_map(|number| (number as u32).to_ne_bytes()).collect();
        for bytes in arguments.iter().map(|argument| &argument.bytes).chain([&info]) {
            input.extend((bytes.len() as u32).to_ne_bytes());
            input.extend(bytes);
        }
        let mut output = self.run(&input);
        arguments.each_ref().map(|argument| {
            let rest = output.split_off(argument.bytes.len());
            std::mem::replace(&mut output, rest)
        })
    }

    fn run(&self, input: &[u8]) -> Vec<u8> {
        let mut child = Command::new(self.folder.path().join("kernel"))
            .env("ASAN_OPTIONS", "detect_stack_use_after_return=0:detect_leaks=0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was compiled for this machine");
        let mut stdin = child.stdin.take().expect("it is piped");
        // All is read before anything is written.
        stdin.write_all(input).expect("the card reads it");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        output.stdout
    }
}

/// Instructions of PTX become functions of the card, the kernel a program.
fn for_the_card(source: &str) -> String {
    let lines = source.lines().filter(|line| !line.starts_with("#include"));
    let body = lines.collect::<Vec<_>>().join("\n");
    // extern "C" __global__ void __launch_bounds__(128) name(T* const __restrict__ a, ...
    let (_, kernel) = body.split_once("__launch_bounds__(").expect("there is a kernel");
    let (_, kernel) = kernel.split_once(") ").expect("its bounds end");
    let (name, _) = kernel.split_once('(').expect("it is a function");
    let name = name.trim().to_owned();
    let body = with_shared_memory(&body);
    let body = with_functions_for_instructions(&body);
    format!(
        "#include \"card.hpp\"\nnamespace kernel {{\n{body}\n}}\n\
         int main() {{ return card::launch(kernel::{name}); }}\n"
    )
}

/// `extern __shared__ __align__(16) char name[];` becomes `char *const name = card::shared;`.
fn with_shared_memory(source: &str) -> String {
    let Some((before, rest)) = source.split_once("extern __shared__ ") else {
        return source.to_owned();
    };
    let (declaration, rest) = rest.split_once("[];").expect("its size is the launch's");
    let name = declaration.rsplit(' ').next().expect("it has a name");
    format!("{before}char *const {name} = card::shared;{rest}")
}

/// `asm volatile("name %0, [%1];" : "=r"(a) : "r"(b) );` becomes `ptx::name(a, b);`.
fn with_functions_for_instructions(source: &str) -> String {
    let mut parts = source.split("asm ");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (statement, rest) = part.split_once(");").expect("it is a statement");
        let (_, text) = statement.split_once('"').expect("it begins with the instruction");
        let (instruction, operands) = text.split_once('"').expect("the instruction ends");
        let operands: Vec<&str> = operands
            .split('(')
            .skip(1)
            .map(|operand| operand.split_once(')').map_or(operand, |(name, _)| name))
            .collect();
        let instruction = instruction.trim_end_matches(';');
        let (name, places) = instruction.split_once(' ').unwrap_or((instruction, ""));
        let name = name.replace(['.', ':'], "_");
        let places = places.replace(['{', '}', '[', ']'], "");
        let arguments = places.split(',').map(|place| {
            let place = place.trim();
            match place.strip_prefix('%') {
                Some(number) => operands[number.parse::<usize>().expect("it is a number")],
                None => place,
            }
        });
        let arguments = arguments.collect::<Vec<_>>().join(", ");
        out += &format!("ptx::{name}({arguments});{rest}");
    }
    out
}
