//! Every function of include/mlxrt.h, called with good arguments but for one. What is good is found by type and name, so
//! that functions to come are covered by themselves; one whose arguments are not understood is a failure.

use std::collections::BTreeMap;
use std::ffi::{c_void, CString};

use crate::abi::{library, mlxrt_error, mlxrt_input, symbol};
use crate::child::qwen;
use crate::common::{outcome, Failure};
use crate::ensure;
use crate::folder::scratch;
use crate::verdict::*;

#[path = "../header/c.rs"]
#[allow(dead_code, reason = "the part that is needed here")]
mod c;

pub struct Param {
    pub name: String,
    /// As `c::Type`: `const char *`, `mlxrt_model * *`.
    pub ty: String,
    pub nonnull: bool,
}

impl Param {
    pub fn is_pointer(&self) -> bool {
        self.ty.ends_with('*') || self.ty.ends_with("_fn")
    }

    /// A handle passed in: the name of its type.
    pub fn handle(&self) -> Option<&str> {
        let ty = self.ty.strip_prefix("const ").unwrap_or(&self.ty);
        let name = ty.strip_suffix(" *")?;
        let handle = surface().opaque.iter().any(|opaque| opaque == name);
        (handle && name != "mlxrt_error").then_some(name)
    }

    /// A struct passed by pointer: the name of its type.
    pub fn struct_name(&self) -> Option<&str> {
        let ty = self.ty.strip_prefix("const ").unwrap_or(&self.ty);
        let name = ty.strip_suffix(" *")?;
        surface().structs.contains_key(name).then_some(name)
    }

    pub fn is_input(&self) -> bool {
        self.ty.starts_with("const ")
    }
}

pub struct Function {
    pub name: String,
    pub ret: String,
    pub params: Vec<Param>,
}

pub struct Surface {
    pub functions: Vec<Function>,
    pub structs: BTreeMap<String, Vec<c::Field>>,
    opaque: Vec<String>,
}

pub fn surface() -> &'static Surface {
    static SURFACE: std::sync::OnceLock<Surface> = std::sync::OnceLock::new();
    SURFACE.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/mlxrt.h");
        read(&std::fs::read_to_string(path).expect("include/mlxrt.h"))
    })
}

/// The parser of tests/header gives types; names and nullability are read beside it.
fn read(text: &str) -> Surface {
    let header = c::parse(text);
    let plain = c::without_comments(text);
    let functions = header
        .functions
        .iter()
        .map(|(name, (ret, types))| {
            let at = plain
                .find(&format!("{name}("))
                .expect("a declaration of it");
            let rest = &plain[at + name.len() + 1..];
            let words: Vec<&str> = rest[..rest.find(");").expect("its end")]
                .split(',')
                .collect();
            let params = types.iter().zip(words).map(|(ty, word)| Param {
                name: word
                    .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                ty: ty.clone(),
                // The last word is of the outermost pointer.
                nonnull: word.rfind("MLXRT_NONNULL") > word.rfind("MLXRT_NULLABLE"),
            });
            Function {
                name: name.clone(),
                ret: ret.clone(),
                params: params.collect(),
            }
        })
        .collect();
    Surface {
        functions,
        structs: header.structs,
        opaque: header.opaque,
    }
}

/// Bytes of a field's type. The ABI's structs have no padding.
pub fn size_of(ty: &str) -> usize {
    if let Some((element, count)) = ty.strip_suffix(']').and_then(|ty| ty.rsplit_once('[')) {
        return size_of(element.trim()) * count.trim().parse::<usize>().expect("a length");
    }
    match ty {
        "uint32_t" | "int32_t" | "float" => 4,
        _ => 8,
    }
}

pub fn size_of_struct(name: &str) -> usize {
    surface().structs[name]
        .iter()
        .map(|field| size_of(&field.ty))
        .sum()
}

/// Where a field begins.
pub fn offset_of(name: &str, field: &str) -> Option<usize> {
    let fields = &surface().structs[name];
    let at = fields.iter().position(|one| one.name == field)?;
    Some(fields[..at].iter().map(|field| size_of(&field.ty)).sum())
}

/// Room for any struct, larger than any struct_size that is believed.
pub type Room = Box<[u64; 1024]>;

/// One call with good arguments, of which some are then changed.
pub struct Call {
    pub function: &'static Function,
    pub args: Vec<u64>,
    /// What the arguments point to, one for each.
    pub memory: Vec<Room>,
    texts: Vec<CString>,
    kept: Vec<Vec<u8>>,
}

/// Handles, one of each type that the header has.
pub type World = BTreeMap<String, u64>;

/// A tensor of the world's adapter.
const TENSOR: &str = "model.layers.0.self_attn.q_proj.lora_b";

/// What outputs hold before a call.
pub const UNTOUCHED: u64 = 0xeeee_eeee_eeee_eeee;

pub fn function(name: &str) -> &'static Function {
    let found = surface().functions.iter().find(|f| f.name == name);
    found.unwrap_or_else(|| panic!("the header has no {name}"))
}

impl Call {
    pub fn good(function: &'static Function, world: &mut World) -> Call {
        let mut call = Call {
            function,
            args: vec![],
            memory: vec![],
            texts: vec![],
            kept: vec![],
        };
        for param in &function.params {
            call.memory.push(Box::new([0; 1024]));
            let value = call.good_value(param, world);
            call.args.push(value);
        }
        call
    }

    /// Where a text is that lives as long as the call.
    pub fn text(&mut self, text: &str) -> u64 {
        self.texts.push(CString::new(text).unwrap());
        self.texts.last().unwrap().as_ptr() as u64
    }

    /// The same for an array.
    pub fn keep(&mut self, bytes: Vec<u8>) -> u64 {
        self.kept.push(bytes);
        self.kept.last().unwrap().as_ptr() as u64
    }

    fn good_value(&mut self, param: &Param, world: &mut World) -> u64 {
        if let Some(handle) = param.handle() {
            return handle_of(handle, world);
        }
        if let Some(name) = param.struct_name() {
            let name = name.to_owned();
            let mut room = self.memory.pop().unwrap();
            room[0] = size_of_struct(&name) as u64;
            let at = room.as_mut_ptr();
            self.memory.push(room);
            if let (true, Some(most)) = (param.is_input(), offset_of(&name, "max_tokens")) {
                self.set(self.memory.len() - 1, most, &4_u32.to_ne_bytes());
            }
            if name == "mlxrt_tensor_view" {
                // What comes out has the layout of what goes in.
                let mut get = Call::good(function("mlxrt_adapter_get"), world);
                get.args[0] = self.args[0];
                // (Another thread may have freed it.)
                if get.run().is_ok() {
                    let out = get.memory.last().unwrap();
                    self.memory.last_mut().unwrap()[..12].copy_from_slice(&out[..12]);
                }
            }
            if name == "mlxrt_train_options" {
                let (text, last) = (
                    self.text("{\"text\":\"Hello there\"}"),
                    self.memory.len() - 1,
                );
                let fields: [(&str, &[u8]); 4] = [
                    ("batch_size", &1_u32.to_ne_bytes()),
                    ("train", &text.to_ne_bytes()),
                    ("train_len", &22_u64.to_ne_bytes()),
                    ("steps", &1_u32.to_ne_bytes()),
                ];
                for (field, bytes) in fields {
                    self.set(last, offset_of(&name, field).unwrap(), bytes);
                }
            }
            if name == "mlxrt_input" {
                // Of a conversation there is no score.
                let scored = param.name == "target";
                let text = self.text(match scored {
                    true => "abc",
                    false => r#"[{"role":"user","content":"Hi"}]"#,
                });
                // SAFETY: the room is larger than the struct and aligned for it.
                let input = unsafe { &mut *at.cast::<mlxrt_input>() };
                match scored {
                    true => (input.text, input.text_len) = (text as *const _, usize::MAX),
                    false => (input.messages, input.messages_len) = (text as *const _, usize::MAX),
                }
            }
            return at as u64;
        }
        if param.name == "texts" {
            let text = self.text("abc");
            let room = self.memory.last_mut().unwrap();
            room[0] = text;
            return room.as_ptr() as u64;
        }
        if let Some(handle) = param.ty.strip_suffix(" * const *") {
            let made = handle_of(handle, world);
            let room = self.memory.last_mut().unwrap();
            room[0] = made;
            return room.as_ptr() as u64;
        }
        if param.name == "path" && self.function.name.ends_with("_save") {
            // A folder, or of a session a file.
            let own = format!("{}-{}", self.function.name, std::process::id());
            let folder = scratch();
            return self.text(folder.join(own).to_str().unwrap());
        }
        let room = self.memory.last_mut().unwrap();
        match (param.ty.as_str(), param.name.as_str()) {
            ("const char *", "name") => self.text(TENSOR),
            ("const char *", "path") if self.function.name == "mlxrt_adapter_load" => {
                self.text(&format!(
                    "{}/tests/fixtures/adapters/mlx-lora-qwen3-last-embed",
                    env!("CARGO_MANIFEST_DIR")
                ))
            }
            ("const char *", "path") if self.function.name == "mlxrt_session_load" => {
                self.text(&format!(
                    "{}/tests/fixtures/prompt_caches/qwen3-f32-9-0-window-16-0.32.safetensors",
                    env!("CARGO_MANIFEST_DIR")
                ))
            }
            ("const char *", "path") => self.text(qwen().to_str().unwrap()),
            ("const char *", _) => self.text("abc"),
            ("const int32_t *", _) => {
                room[0] = 5;
                room.as_ptr() as u64
            }
            ("size_t *" | "int32_t *", _) => {
                room[0] = UNTOUCHED;
                room.as_ptr() as u64
            }
            (ty, _) if ty.ends_with("* *") && !ty.starts_with("const") => {
                room[0] = UNTOUCHED;
                room.as_ptr() as u64
            }
            // All NUL-terminated.
            ("const size_t *", "lens") => 0,
            ("size_t", "count") => 1,
            // What any session holds.
            ("size_t", "tokens") => 0,
            ("size_t", _) => 3,
            ("void *" | "mlxrt_error *" | "const mlxrt_error *", _) => 0,
            // So that what can wait does wait.
            ("uint32_t", "timeout_ms") if self.function.name == "mlxrt_request_result" => 2000,
            ("uint32_t", "timeout_ms") => 1,
            // Of a grammar: a regular expression.
            ("int32_t", "kind") => 3,
            ("uint32_t" | "int32_t", _) => 0,
            // Adapters: one, at its own scale; a tensor that it has.
            ("const float *", _) => {
                room[0] = u64::from(1_f32.to_bits());
                room.as_ptr() as u64
            }
            (ty, _) if ty.ends_with("_fn") => 0,
            (ty, name) => panic!("surface.rs knows no good value for `{ty} {name}`"),
        }
    }

    /// Writes a field of a struct argument.
    pub fn set(&mut self, arg: usize, offset: usize, bytes: &[u8]) {
        let room: &mut [u64; 1024] = &mut self.memory[arg];
        // SAFETY: plain memory, read as bytes.
        let room = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<u8>(), 8192) };
        room[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn bytes(&self, arg: usize) -> &[u8] {
        // SAFETY: plain memory, read as bytes.
        unsafe { std::slice::from_raw_parts(self.memory[arg].as_ptr().cast(), 8192) }
    }

    /// Calls it. The arguments are integers and pointers, which the calling conventions of the supported 64-bit targets
    /// pass in registers, each whole.
    pub fn run(&self) -> Result<u64, Failure> {
        let returned = self.raw();
        match self.function.ret.as_str() {
            "mlxrt_error *" => outcome(returned as *mut mlxrt_error).map(|()| 0),
            "void" => Ok(0),
            _ => Ok(returned),
        }
    }

    /// What the function returns, an error object too.
    pub fn raw(&self) -> u64 {
        let at = symbol(library(), &self.function.name);
        assert!(!at.is_null(), "{} is not exported", self.function.name);
        assert!(self.args.len() <= 6, "more arguments than registers");
        let mut a = [0; 6];
        a[..self.args.len()].copy_from_slice(&self.args);
        // SAFETY: the address is that of a function with these parameters, all in registers.
        unsafe {
            let call: extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64 =
                std::mem::transmute::<*mut c_void, _>(at);
            call(a[0], a[1], a[2], a[3], a[4], a[5])
        }
    }

    /// On failure, outputs that are pointers are NULL.
    pub fn check_outputs(&self) -> Result<(), Verdict> {
        for (i, param) in self.function.params.iter().enumerate() {
            if param.ty.ends_with("* *") && !param.ty.starts_with("const") && self.args[i] != 0 {
                let now = self.memory[i][0];
                ensure!(now == 0, "{} is {now:#x} after a failure", param.name);
            }
        }
        Ok(())
    }
}

/// A handle of a type, made by the function that gives one: the one whose last argument is `type **out`.
pub fn make(handle: &str, world: &mut World) -> u64 {
    let wanted = format!("{handle} * *");
    let maker = surface()
        .functions
        .iter()
        .find(|f| f.params.last().is_some_and(|last| last.ty == wanted));
    let maker = maker.unwrap_or_else(|| panic!("no function makes a {handle}"));
    let call = Call::good(maker, world);
    call.run().unwrap();
    call.memory.last().unwrap()[0]
}

/// The world's handle of that type. A type that nothing makes yet is NULL.
pub fn handle_of(handle: &str, world: &mut World) -> u64 {
    if let Some(&known) = world.get(handle) {
        return known;
    }
    let made = make(handle, world);
    world.insert(handle.to_owned(), made);
    made
}

/// All handle types that functions take.
pub fn handle_types() -> Vec<&'static str> {
    let all = surface().functions.iter().flat_map(|f| &f.params);
    let mut types: Vec<&str> = all.filter_map(Param::handle).collect();
    types.sort_unstable();
    types.dedup();
    types
}

pub fn free(handle: &str, bits: u64) {
    let call = Call {
        function: function(&format!("{handle}_free")),
        args: vec![bits],
        memory: vec![],
        texts: vec![],
        kept: vec![],
    };
    call.run().unwrap();
}
