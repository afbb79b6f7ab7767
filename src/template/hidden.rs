//! What jinja2's sandbox hides: attributes that Python's values have and templates must not reach. They are undefined, and
//! using them says that they are unsafe. An attribute that is not there at all is undefined like any other.

use super::value::{Function, Object, Type, V};

/// Every object of Python's has these.
const OBJECT: &str = "__class__ __delattr__ __dir__ __doc__ __eq__ __format__ __ge__ __getattribute__ __getstate__ __gt__ \
    __hash__ __init__ __init_subclass__ __le__ __lt__ __ne__ __new__ __reduce__ __reduce_ex__ __repr__ __setattr__ \
    __sizeof__ __str__ __subclasshook__";

const INSTANCE: &str = "__dict__ __module__ __weakref__";

const SEQUENCE: &str = "__add__ __contains__ __getitem__ __iter__ __len__ __mul__ __rmul__";

const NUMBER: &str = "__abs__ __add__ __bool__ __ceil__ __divmod__ __float__ __floor__ __floordiv__ __getnewargs__ __int__ \
    __mod__ __mul__ __neg__ __pos__ __pow__ __radd__ __rdivmod__ __rfloordiv__ __rmod__ __rmul__ __round__ __rpow__ __rsub__ \
    __rtruediv__ __sub__ __truediv__ __trunc__";

const WHOLE: &str = "__and__ __index__ __invert__ __lshift__ __or__ __rand__ __rlshift__ __ror__ __rrshift__ __rshift__ __rxor__ \
    __xor__";

const FUNCTION: &str = "__annotations__ __builtins__ __call__ __closure__ __code__ __defaults__ __dict__ __get__ __globals__ \
    __kwdefaults__ __module__ __name__ __qualname__";

const VIEW: &str = "__contains__ __iter__ __len__ __reversed__";

const SET: &str = "__and__ __or__ __rand__ __ror__ __rsub__ __rxor__ __sub__ __xor__";

/// Whether a name is of the kind that is looked up.
pub(super) fn may_be_hidden(name: &str) -> bool {
    name.starts_with('_') || matches!(name, "gi_code" | "gi_frame" | "mro")
}

/// Whether the sandbox hides that attribute of the value.
pub(super) fn is_hidden(value: &V, name: &str) -> bool {
    if !may_be_hidden(name) {
        return false;
    }
    let own: &[&str] = match value.kind() {
        Type::Undefined => &[
            "__add__ __aiter__ __bool__ __call__ __complex__ __div__ __float__ __floordiv__ __getattr__ __getitem__ __int__ \
             __iter__ __len__ __mod__ __module__ __mul__ __neg__ __pos__ __pow__ __radd__ __rdiv__ __rfloordiv__ __rmod__ \
             __rmul__ __rpow__ __rsub__ __rtruediv__ __slots__ __sub__ __truediv__ _fail_with_undefined_error \
             _undefined_exception _undefined_hint _undefined_message _undefined_name _undefined_obj",
        ],
        Type::None => &["__bool__"],
        Type::Bool | Type::Int => &[NUMBER, WHOLE],
        Type::Float => &[NUMBER, "__getformat__"],
        Type::Str => &[SEQUENCE, "__getnewargs__ __mod__ __rmod__"],
        Type::Markup => &[
            SEQUENCE,
            "__getnewargs__ __html__ __html_format__ __mod__ __module__ __radd__ __rmod__ __slots__",
        ],
        Type::List => &[
            SEQUENCE,
            "__class_getitem__ __delitem__ __iadd__ __imul__ __reversed__ __setitem__",
        ],
        Type::Tuple => &[SEQUENCE, "__class_getitem__ __getnewargs__", group(value)],
        Type::Dict => &[
            VIEW,
            "__class_getitem__ __delitem__ __getitem__ __ior__ __or__ __ror__ __setitem__",
        ],
        Type::Keys | Type::Items => &[VIEW, SET],
        Type::Values => &["__iter__ __len__ __reversed__"],
        Type::Range => &[VIEW, "__bool__ __getitem__"],
        Type::Generator => &["__del__ __iter__ __name__ __next__ __qualname__ gi_code gi_frame"],
        Type::Method => &["__call__ __module__ __name__ __qualname__ __self__ __text_signature__"],
        Type::Namespace => &[INSTANCE, "__setitem__ _check_name"],
        Type::Macro => &[
            INSTANCE,
            "__call__ _argument_count _async_invoke _default_autoescape _environment _func _invoke",
        ],
        Type::Cycler => &[INSTANCE, "__next__"],
        Type::Joiner => &[INSTANCE, "__call__"],
        Type::Loop => &[
            INSTANCE,
            "__annotations__ __call__ __iter__ __len__ __next__ _after _before _current _iterable _iterator \
             _last_changed_value _length _peek_next _recurse _to_iterator _undefined",
        ],
        Type::Function => match value {
            V::Object(Object::Function(Function::Dict)) => &[INSTANCE, "__call__"],
            V::Object(Object::Function(
                Function::Namespace | Function::Cycler | Function::Joiner,
            )) => &[INSTANCE, "__call__ __name__ __next__ __qualname__ __setitem__ mro"],
            _ => &[FUNCTION],
        },
    };
    let mut names = own.iter().chain([&OBJECT]);
    names.any(|names| names.split_ascii_whitespace().any(|hidden| hidden == name))
}

/// A pair of `groupby` is a named tuple.
fn group(value: &V) -> &'static str {
    match value {
        V::Tuple(pair, _) if pair.group => {
            "__annotations__ __match_args__ __module__ __orig_bases__ __slots__ _asdict _field_defaults _fields _make _replace"
        }
        _ => "",
    }
}
