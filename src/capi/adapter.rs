//! Adapters: low-rank changes beside a model's weights, loaded, made, applied to sessions, read and saved.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::boundary::{call, quietly, Use};
use super::constants::*;
use super::error::mlxrt_error;
use super::handle::{table, Handle, Kind};
use super::model::report;
use super::structs::{read_options, Out};
use super::text::{allocate, path_arg, slice_arg, strings_arg, HandleOut, TextOut};
use super::time::deadline;
use super::types::{
    mlxrt_adapter, mlxrt_adapter_options, mlxrt_call_options, mlxrt_model, mlxrt_session,
    mlxrt_tensor, mlxrt_tensor_view,
};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::runtime::adapter::{Adapter, AdapterOptions, LoadOptions, TensorData};
use crate::runtime::model::Model;
use crate::runtime::session::{Applied, Session};
use crate::runtime::staging::SaveOptions;

/// Dimensions of a tensor that crosses the border.
pub(super) const MOST_DIMENSIONS: usize = 8;

impl Handle for Adapter {
    type C = mlxrt_adapter;
    const KIND: Kind = Kind::Adapter;
}

/// Makes a new adapter, which changes nothing until it is trained: A is random, B is zero. keys are names of modules
/// inside a block ("q_proj", "mlp.gate_proj") or outside of the blocks ("embed_tokens", "lm_head").
///
/// Threads: any.
/// Blocks: until the engine's running step is done.
/// Errors: INVALID_ARGUMENT names the option; SUSPENDED; DEVICE.
/// Owns: out is yours: mlxrt_adapter_free. The adapter keeps what it needs of the model alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_create(
    model: *mut mlxrt_model,
    options: *const mlxrt_adapter_options,
    out: *mut *mut mlxrt_adapter,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_adapter_create", Use::Blocking, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: the caller's options are NULL or as large as their struct_size says, their fields as the header wants.
        let options = unsafe { read_adapter_options(options)? };
        let adapter = Adapter::create(model, &options)?;
        out.put(table().insert(Arc::new(adapter))?);
        Ok(())
    })
}

/// Loads an adapter for a model: a folder, or a .safetensors file with its adapter_config.json beside it, of mlx-lm
/// (lora, dora, full), of PEFT (LoRA, rslora, DoRA, modules_to_save, target_parameters), or with rank and alpha at the top of
/// its config. Every tensor has to belong to a module of the model and to fit it. Experts take LoRA alone. Limits:
/// adapter_config.json 16 MB, a rank of 4,096, weights of 100,000 tensors and a header of 100 MB (BAD_MODEL; SECURITY.md has
/// all limits).
///
/// Threads: any; progress runs on this one.
/// Blocks: while it reads the file; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
/// Errors: NOT_FOUND; IO; BAD_MODEL names the file and the key or tensor; INCOMPATIBLE names the modules that do not
/// fit; UNSUPPORTED; OUT_OF_MEMORY before anything is read; SUSPENDED.
/// Owns: out is yours: mlxrt_adapter_free. The adapter keeps what it needs of the model alive.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_load(
    model: *mut mlxrt_model,
    path: *const c_char,
    options: *const mlxrt_call_options,
    out: *mut *mut mlxrt_adapter,
) -> *mut mlxrt_error {
    // SAFETY: the caller's output is NULL or writable.
    let out = unsafe { HandleOut::clear(out, "out") };
    call("mlxrt_adapter_load", Use::Blocking, || {
        let out = out?;
        let model = table().get::<Model>(model, "model")?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, options) =
            unsafe { (path_arg(path, "path")?, read_options(options, "options")?) };
        let adapter = Adapter::load(
            model,
            &path.to_string_lossy(),
            LoadOptions {
                deadline: deadline(options.timeout_ms),
                progress: &mut |done, total| {
                    report(options.progress, options.progress_data, done, total)
                },
            },
        )?;
        out.put(table().insert(Arc::new(adapter))?);
        Ok(())
    })
}

/// Tells what an adapter is, as JSON: "kind" ("lora", "dora" or "full"), "format" (where it came from, null when it was
/// made here), "rank", "scale", "dropout", "parameters", "bytes", and "tensors": name, shape and dtype of each, by name.
///
/// Threads: any.
/// Blocks: no.
/// Errors: none but those of every function.
/// Owns: json is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_info(
    adapter: *const mlxrt_adapter,
    json: *mut *mut c_char,
    len: *mut usize,
) -> *mut mlxrt_error {
    // SAFETY: the caller's outputs are NULL or writable.
    let out = unsafe { TextOut::clear(json, len, "json") };
    call("mlxrt_adapter_info", Use::Query, || {
        out?.put(&table().get::<Adapter>(adapter, "adapter")?.info()?)
    })
}

/// Gives a copy of one tensor as F32, by its name in mlxrt_adapter_info, such as
/// "model.layers.0.self_attn.q_proj.lora_a" [in, rank] or ".lora_b" [rank, out].
///
/// Threads: any.
/// Blocks: until the engine's running step is done.
/// Errors: NOT_FOUND; SUSPENDED; OUT_OF_MEMORY; DEVICE.
/// Owns: out->data is yours: mlxrt_free.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_get(
    adapter: *const mlxrt_adapter,
    name: *const c_char,
    out: *mut mlxrt_tensor,
) -> *mut mlxrt_error {
    call("mlxrt_adapter_get", Use::Blocking, || {
        // SAFETY: the caller's struct is NULL or as large as its struct_size says.
        let out = unsafe { Out::check(out, "out")? };
        let adapter = table().get::<Adapter>(adapter, "adapter")?;
        // SAFETY: a name is NUL-terminated.
        let name = unsafe { path_arg(name, "name")? };
        out.write(tensor(adapter.get(&name.to_string_lossy())?)?);
        Ok(())
    })
}

/// Replaces one tensor, from the next request on: of the same shape, in F32, F16 or BF16, finite. It is stored in the
/// type that the adapter's has.
///
/// Threads: any.
/// Blocks: until the engine's running step is done.
/// Errors: NOT_FOUND; INVALID_ARGUMENT for another shape, another size of data, or what is not finite; UNSUPPORTED for
/// another dtype; SUSPENDED; DEVICE.
/// Owns: nothing; data is copied.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_set(
    adapter: *mut mlxrt_adapter,
    name: *const c_char,
    r#in: *const mlxrt_tensor_view,
) -> *mut mlxrt_error {
    call("mlxrt_adapter_set", Use::Blocking, || {
        let adapter = table().get::<Adapter>(adapter, "adapter")?;
        // SAFETY: a name is NUL-terminated; the struct is as large as its struct_size says, its data as long as bytes.
        let (name, data) = unsafe { (path_arg(name, "name")?, read_tensor(r#in)?) };
        adapter.set(&name.to_string_lossy(), data)
    })
}

/// Writes a folder in mlx-lm's format (adapter_config.json and adapters.safetensors), which mlx-lm and this library
/// load. What was there is replaced only when everything is on the disk; where it does not come to that, what was made is
/// gone again, folders above path included.
///
/// Threads: any; progress runs on this one.
/// Blocks: while it writes; progress may stop it (CANCELLED), timeout_ms ends it (TIMEOUT).
/// Errors: IO names the file: also for a FIFO, a socket or a device in its place, and for what is larger than the process may write
/// (RLIMIT_FSIZE). The signal of that, SIGXFSZ, is held off on this thread and taken back on Linux; on macOS, where the process
/// gets it, a host with such a limit has to ignore it, or it ends. UNSUPPORTED for
/// what that format does not have; SUSPENDED; DEVICE.
/// Owns: nothing.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_save(
    adapter: *const mlxrt_adapter,
    path: *const c_char,
    options: *const mlxrt_call_options,
) -> *mut mlxrt_error {
    call("mlxrt_adapter_save", Use::Blocking, || {
        let adapter = table().get::<Adapter>(adapter, "adapter")?;
        // SAFETY: a path is NUL-terminated; options are NULL or as large as their struct_size says.
        let (path, options): (_, mlxrt_call_options) =
            unsafe { (path_arg(path, "path")?, read_options(options, "options")?) };
        let watch = SaveOptions {
            deadline: deadline(options.timeout_ms),
            progress: &mut |done, total| {
                report(options.progress, options.progress_data, done, total)
            },
        };
        adapter.save(&path, None, watch)
    })
}

/// Gives an adapter up. Sessions that it is applied to, and requests, keep what they need of it. NULL does nothing.
///
/// Threads: any.
/// Blocks: no; when it was the last thing that held the engine, until the engine has ended.
/// Errors: none; a handle that is not a live adapter is logged.
/// Owns: takes the handle.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_adapter_free(adapter: *mut mlxrt_adapter) {
    if !adapter.is_null() {
        quietly("mlxrt_adapter_free", Use::Query, || {
            table().remove::<Adapter>(adapter, "adapter").map(drop)
        });
    }
}

/// Sets the adapters of a session, from the next request on (those that were submitted keep theirs): none, one, or
/// several, whose changes add up, each at scales times its own scale (NULL = 1 each). No weight is copied or read.
/// Keys and values belong to the set that they were computed with: going back to a set finds them again. Other sessions
/// of the model are not touched.
///
/// Threads: any.
/// Blocks: no.
/// Errors: INVALID_HANDLE names which; INCOMPATIBLE for an adapter of another model; INVALID_ARGUMENT for one that is
/// there twice, and for scales that are not finite or that make more than 1e30 of its own (of an F16 adapter 65504). Adapters that replace the same weights fail with the next request.
/// Owns: nothing; the session keeps what it needs of the adapters.
#[no_mangle]
pub unsafe extern "C" fn mlxrt_apply_adapter(
    session: *mut mlxrt_session,
    adapters: *const *mut mlxrt_adapter,
    scales: *const f32,
    count: usize,
) -> *mut mlxrt_error {
    call("mlxrt_apply_adapter", Use::Query, || {
        let session = table().get::<Session>(session, "session")?;
        // SAFETY: the caller's arrays are NULL or have count elements.
        session.apply(unsafe { read_adapters(adapters, scales, count)? })
    })
}

/// Adapters and their scales.
///
/// # Safety
/// Each is NULL or has `count` elements.
pub(super) unsafe fn read_adapters(
    adapters: *const *mut mlxrt_adapter,
    scales: *const f32,
    count: usize,
) -> Result<Applied> {
    // SAFETY: as this function's own contract.
    let (handles, scales) = unsafe {
        let handles = slice_arg(adapters, count, "adapters")?;
        let scales = match scales.is_null() {
            true => vec![1.0; handles.len()],
            false => slice_arg(scales, count, "scales")?,
        };
        (handles, scales)
    };
    let applied = handles.iter().zip(scales).enumerate();
    let applied = applied.map(|(index, (&handle, scale))| {
        let adapter = table().get::<Adapter>(handle, &format!("adapters[{index}]"))?;
        Ok((adapter, scale))
    });
    applied.collect()
}

/// # Safety
/// `options` is NULL or as large as its struct_size says, and its fields are as the header wants them.
unsafe fn read_adapter_options(options: *const mlxrt_adapter_options) -> Result<AdapterOptions> {
    // SAFETY: as this function's own contract.
    let o = unsafe { read_options(options, "options")? };
    let dora = match o.kind {
        MLXRT_LORA => false,
        MLXRT_DORA => true,
        other => {
            return Err(Error::unsupported(format!(
                "options.kind is {other}; known are {MLXRT_LORA} (LoRA) and {MLXRT_DORA} (DoRA)"
            )))
        }
    };
    Ok(AdapterOptions {
        dora,
        rank: o.rank,
        scale: o.scale,
        dropout: o.dropout,
        layers: u32::try_from(o.layers).map_err(|_| {
            Error::invalid(format!(
                "options.layers is {}; it must be 0 or more",
                o.layers
            ))
        })?,
        dtype: match o.dtype {
            0 => None,
            code => Some(float(code, "options.dtype")?),
        },
        seed: o.seed,
        // SAFETY: as this function's own contract.
        keys: unsafe { strings_arg(o.keys, std::ptr::null(), o.key_count, "options.keys")? },
    })
}

fn float(code: i32, name: &str) -> Result<Dtype> {
    match code {
        MLXRT_DTYPE_F32 => Ok(Dtype::F32),
        MLXRT_DTYPE_F16 => Ok(Dtype::F16),
        MLXRT_DTYPE_BF16 => Ok(Dtype::BF16),
        _ => Err(Error::unsupported(format!(
            "{name} is {code}; known are {MLXRT_DTYPE_F32} (F32), {MLXRT_DTYPE_F16} (F16) and {MLXRT_DTYPE_BF16} (BF16)"
        ))),
    }
}

/// A tensor that goes out, with data of its own.
pub(super) fn tensor(data: TensorData) -> Result<mlxrt_tensor> {
    let TensorData { shape, values } = data;
    let data = allocate::<f32>(values.len(), 0)?;
    // SAFETY: the buffer has room for all values.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), data, values.len()) };
    let mut tensor = mlxrt_tensor {
        struct_size: 0,
        dtype: MLXRT_DTYPE_F32,
        rank: shape.len() as u32,
        reserved: 0,
        shape: [0; MOST_DIMENSIONS],
        data: data.cast::<c_void>(),
        bytes: size_of_val(values.as_slice()) as u64,
    };
    for (to, from) in tensor.shape.iter_mut().zip(shape) {
        *to = from as u64;
    }
    Ok(tensor)
}

/// # Safety
/// `view` is NULL or as large as its struct_size says, and `bytes` bytes are readable at its data.
unsafe fn read_tensor(view: *const mlxrt_tensor_view) -> Result<TensorData> {
    if view.is_null() {
        return Err(Error::invalid("in is NULL"));
    }
    // SAFETY: as this function's own contract.
    let view: mlxrt_tensor_view = unsafe { read_options(view, "in")? };
    let dtype = float(view.dtype, "in.dtype")?;
    let rank = view.rank as usize;
    if rank > MOST_DIMENSIONS {
        return Err(Error::invalid(format!(
            "in.rank is {rank}; at most {MOST_DIMENSIONS}"
        )));
    }
    let dimension = |&n: &u64| i32::try_from(n).ok().filter(|&n| n > 0);
    let shape: Option<Vec<i32>> = view.shape.iter().take(rank).map(dimension).collect();
    let shape = shape
        .ok_or_else(|| Error::invalid("in.shape has a dimension that is 0 or 2^31 or more"))?;
    let elements = shape
        .iter()
        .try_fold(1u64, |all, &n| all.checked_mul(n as u64));
    let bytes = elements.and_then(|n| n.checked_mul(dtype.size() as u64));
    if bytes != Some(view.bytes) {
        return Err(Error::invalid(format!(
            "in.bytes is {}, which is not that of shape {shape:?} in {}",
            view.bytes,
            dtype.name()
        )));
    }
    let count = usize::try_from(view.bytes)
        .map_err(|_| Error::new(Code::OutOfMemory, "in.bytes is more than an address can be"))?;
    // SAFETY: as this function's own contract.
    let bytes = unsafe { slice_arg(view.data.cast::<u8>(), count, "in.data")? };
    let values = match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| f32::from_le_bytes(b))
            .collect(),
        _ => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&b| match dtype {
                Dtype::F16 => half::f16::from_le_bytes(b).to_f32(),
                _ => half::bf16::from_le_bytes(b).to_f32(),
            })
            .collect(),
    };
    Ok(TensorData { shape, values })
}
