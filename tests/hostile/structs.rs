//! Row 5: struct_size, flags and reserved fields, for each struct of each function. Generated from the header.

use crate::list::Cases;
use crate::surface::{offset_of, size_of_struct, surface, Call, Function, World};
use crate::verdict::*;
use crate::{ensure, list_class};

list_class!(
    "5",
    "struct_size, unknown flags, reserved fields",
    "structs"
);

#[derive(Clone, Copy, Debug)]
enum Change {
    /// struct_size, of which nothing good can come.
    Size(u32),
    /// A newer program's struct: larger, the rest zero.
    Newer(u32),
    /// The same, with something at this byte.
    NewerWith(u32, usize),
    /// A bit of `flags`.
    Flag(u32),
    Reserved,
}

fn cases() -> Cases {
    let mut cases: Cases = vec![];
    for function in &surface().functions {
        for (at, param) in function.params.iter().enumerate() {
            let Some(name) = param.struct_name() else {
                continue;
            };
            let size = size_of_struct(name) as u32;
            let mut changes: Vec<Change> = [0, 1, 3, 4, 8, size - 8, size - 1, size + 1, 4095]
                .into_iter()
                .chain([4097, 4104, 8192, 1 << 31, u32::MAX])
                .map(Change::Size)
                .collect();
            changes.extend([size + 8, size + 64, 4096].map(Change::Newer));
            if param.is_input() {
                let tails = [(size + 8, size), (4096, 4095), (4096, size)];
                changes.extend(tails.map(|(new, at)| Change::NewerWith(new, at as usize)));
                if crate::surface::offset_of(name, "flags").is_some() {
                    changes.extend([16, 24, 30, 31].map(Change::Flag));
                }
                if offset_of(name, "reserved").is_some() {
                    changes.push(Change::Reserved);
                }
            }
            for change in changes {
                let what = format!("{}: {}: {change:?}", function.name, param.name);
                cases.push((what, Box::new(move || changed(function, at, change))));
            }
        }
    }
    cases
}

fn changed(function: &'static Function, at: usize, change: Change) -> Outcome {
    let param = &function.params[at];
    let name = param.struct_name().expect("a struct");
    let size = size_of_struct(name);
    let mut world = World::new();
    let mut call = Call::good(function, &mut world);
    if function.name == "mlxrt_inspect_attention" {
        // There are keys behind an answer only.
        let generate = crate::surface::function("mlxrt_generate");
        let mut answer = Call::good(generate, &mut world);
        let options = generate.params.iter().position(|p| p.name == "options");
        let most = offset_of("mlxrt_generate_options", "max_tokens").expect("a field");
        answer.set(options.expect("options"), most, &2_u32.to_ne_bytes());
        if let Err(failure) = answer.run() {
            return Err(Wrong(format!("{failure:?}")));
        }
    }
    let (codes, word): (&[&str], _) = match change {
        Change::Size(size) => {
            call.set(at, 0, &size.to_ne_bytes());
            match size {
                4097.. => (&["UNSUPPORTED"], "struct_size"),
                _ => (&["INVALID_ARGUMENT"], "struct_size"),
            }
        }
        Change::Newer(size) => {
            call.set(at, 0, &size.to_ne_bytes());
            (&[], "")
        }
        Change::NewerWith(size, byte) => {
            call.set(at, 0, &size.to_ne_bytes());
            call.set(at, byte, &[1]);
            (&["UNSUPPORTED"], "newer")
        }
        Change::Flag(bit) => {
            call.set(at, 4, &(1_u32 << bit).to_ne_bytes());
            (&["UNSUPPORTED"], "flags")
        }
        Change::Reserved => {
            let offset = offset_of(name, "reserved").expect("a reserved field");
            call.set(at, offset, &1_u32.to_ne_bytes());
            (&["UNSUPPORTED", "INVALID_ARGUMENT"], "reserved")
        }
    };
    if !param.is_input() {
        // What the library does not fill, it does not touch; what a newer program has, it zeroes.
        call.set(at, 4, &[0xee; 8188]);
    }
    let result = call.run();
    if codes.is_empty() {
        if let Err(failure) = result {
            return Err(Wrong(format!("{failure:?}")));
        }
        let Change::Newer(told) = change else {
            return fine();
        };
        if !param.is_input() {
            let bytes = call.bytes(at);
            let filled = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
            ensure!(filled == size, "it says that it filled {filled}");
            let told = told as usize;
            ensure!(bytes[size..told].iter().all(|&b| b == 0), "not zeroed");
            ensure!(bytes[told..].iter().all(|&b| b == 0xee), "touched beyond");
        }
        return fine();
    }
    let Err(failure) = result else {
        return Err(Wrong("it is accepted".into()));
    };
    if !param.is_input() {
        ensure!(
            call.bytes(at)[4..].iter().all(|&b| b == 0xee),
            "it wrote into a struct that it refused"
        );
    }
    named(&failure, codes, &[word])
}
