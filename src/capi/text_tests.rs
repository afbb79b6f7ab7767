use super::*;
use std::ffi::c_void;

fn refused<T>(result: Result<T>) -> String {
    let Err(error) = result else {
        panic!("was accepted")
    };
    assert_eq!(error.code, Code::InvalidArgument);
    error.message
}

fn text(bytes: &[u8], length: usize) -> Result<String> {
    // SAFETY: `bytes` has `length` bytes, or a NUL for NTS, or the length is refused unread.
    unsafe { str_arg(bytes.as_ptr().cast(), length, "text") }
}

#[test]
fn text_comes_with_a_length_or_a_nul() {
    assert_eq!(text(b"abc", 2).unwrap(), "ab");
    assert_eq!(text("gr\u{fc}n\0x".as_bytes(), NTS).unwrap(), "gr\u{fc}n");
    assert_eq!(text(b"a\0b", 3).unwrap(), "a\0b");
    assert_eq!(text(b"", 0).unwrap(), "");
    // SAFETY: NULL with 0 is allowed; an odd pointer with 0 is not touched.
    unsafe {
        assert_eq!(str_arg(ptr::null(), 0, "text").unwrap(), "");
        assert_eq!(str_arg(ptr::without_provenance(1), 0, "text").unwrap(), "");
    }
}

#[test]
fn bad_text_is_named_with_its_place() {
    assert_eq!(
        refused(text(b"abc\xffd", 5)),
        "text is not valid UTF-8 at byte 3"
    );
    assert_eq!(
        refused(text(b"ab\xe2\x82\0", NTS)),
        "text is not valid UTF-8 at byte 2"
    );
    assert_eq!(
        refused(text(b"\xed\xa0\x80", 3)),
        "text is not valid UTF-8 at byte 0"
    );
    for length in [LARGEST + 1, isize::MAX as usize, usize::MAX - 1] {
        assert!(refused(text(b"a", length)).contains(&length.to_string()));
    }
    // SAFETY: NULL is allowed and refused.
    unsafe {
        assert_eq!(
            refused(str_arg(ptr::null(), 5, "text")),
            "text is NULL, but its length is 5"
        );
        assert_eq!(refused(str_arg(ptr::null(), NTS, "text")), "text is NULL");
    }
}

#[test]
fn optional_text_is_left_out_with_null() {
    // SAFETY: NULL, and lengths that fit.
    unsafe {
        assert_eq!(opt_str_arg(ptr::null(), 0, "tools").unwrap(), None);
        assert_eq!(opt_str_arg(ptr::null(), NTS, "tools").unwrap(), None);
        assert_eq!(
            opt_str_arg(c"[]".as_ptr(), 2, "tools").unwrap(),
            Some("[]".to_owned())
        );
        assert_eq!(
            opt_str_arg(c"".as_ptr(), NTS, "tools").unwrap(),
            Some(String::new())
        );
        assert!(refused(opt_str_arg(ptr::null(), 2, "tools")).contains("tools is NULL"));
    }
}

#[test]
fn paths_are_utf8_and_not_empty() {
    let long = std::ffi::CString::new("a/".repeat(LONGEST_PATH)).unwrap();
    // SAFETY: each is NUL-terminated or NULL.
    unsafe {
        assert_eq!(
            path_arg(c"a/b".as_ptr(), "path").unwrap(),
            PathBuf::from("a/b")
        );
        assert_eq!(refused(path_arg(c"".as_ptr(), "path")), "path is empty");
        assert_eq!(refused(path_arg(ptr::null(), "path")), "path is NULL");
        assert!(refused(path_arg(c"a\xff".as_ptr(), "path")).contains("UTF-8 at byte 1"));
        assert!(refused(path_arg(long.as_ptr(), "path")).contains("too many for a path"));
        assert_eq!(opt_path_arg(ptr::null(), "draft_path").unwrap(), None);
        assert_eq!(
            opt_path_arg(c"d".as_ptr(), "draft_path").unwrap(),
            Some(PathBuf::from("d"))
        );
    }
}

#[test]
fn arrays_need_no_alignment() {
    let mut bytes = [0_u8; 13];
    bytes[1..5].copy_from_slice(&7_i32.to_ne_bytes());
    bytes[5..9].copy_from_slice(&(-1_i32).to_ne_bytes());
    // SAFETY: two values of four bytes each are there.
    let ids = unsafe { slice_arg(bytes[1..].as_ptr().cast::<i32>(), 2, "ids") }.unwrap();
    assert_eq!(ids, [7, -1]);
}

#[test]
fn arrays_of_absurd_length_are_refused_unread() {
    // SAFETY: nothing is read: a count of 0, NULL, or a count that is refused.
    unsafe {
        assert!(slice_arg::<i32>(ptr::null(), 0, "ids").unwrap().is_empty());
        assert!(slice_arg::<i32>(ptr::without_provenance(3), 0, "ids")
            .unwrap()
            .is_empty());
        assert_eq!(
            refused(slice_arg::<i32>(ptr::null(), 4, "ids")),
            "ids is NULL, but its length is 4"
        );
        let odd = ptr::without_provenance::<i32>(4096);
        for count in [LARGEST / 4 + 1, usize::MAX / 4 + 2, usize::MAX] {
            let message = refused(slice_arg(odd, count, "ids"));
            assert!(
                message.starts_with(&format!("ids has a length of {count}, more than")),
                "{message}"
            );
            assert_eq!(message.contains("MLXRT_NTS"), count == NTS);
        }
    }
}

#[test]
fn arrays_of_text_come_with_lengths_or_nuls() {
    let pointers = [
        c"one".as_ptr(),
        c"two".as_ptr(),
        c"bad\xff".as_ptr(),
        ptr::null(),
    ];
    let lengths = [2, NTS, 3, 0];
    // SAFETY: the pointers are NUL-terminated or NULL, and the lengths fit.
    unsafe {
        let all = |lengths, count| strings_arg(pointers.as_ptr(), lengths, count, "stop");
        assert_eq!(all(ptr::null(), 2).unwrap(), ["one", "two"]);
        assert_eq!(all(lengths.as_ptr(), 4).unwrap(), ["on", "two", "bad", ""]);
        assert_eq!(
            refused(all(ptr::null(), 3)),
            "stop[2] is not valid UTF-8 at byte 3"
        );
        let none: [*const c_char; 1] = [ptr::null()];
        assert_eq!(
            refused(strings_arg(none.as_ptr(), ptr::null(), 1, "stop")),
            "stop[0] is NULL"
        );
        assert!(strings_arg(ptr::null(), ptr::null(), 0, "stop")
            .unwrap()
            .is_empty());
        assert!(refused(strings_arg(ptr::null(), ptr::null(), 1, "stop")).contains("stop is NULL"));
        assert!(refused(all(ptr::null(), LARGEST)).contains("a length of"));
    }
}

#[test]
fn text_goes_out_with_a_nul_behind_it() {
    let mut buffer: *mut c_char = ptr::without_provenance_mut(9);
    let mut length = 9;
    // SAFETY: both outputs are writable; the buffer is used before it is freed, once.
    unsafe {
        let out = TextOut::clear(&mut buffer, &mut length, "json").unwrap();
        assert!(buffer.is_null() && length == 0);
        out.put("a\0\u{e9}").unwrap();
        assert_eq!(length, 4);
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), 5);
        assert_eq!(bytes, b"a\0\xc3\xa9\0");
        release(buffer.cast::<c_void>());
        TextOut::clear(&mut buffer, ptr::null_mut(), "json")
            .unwrap()
            .put("")
            .unwrap();
        assert_eq!(CStr::from_ptr(buffer).count_bytes(), 0);
        release(buffer.cast::<c_void>());
        length = 9;
        assert_eq!(
            refused(TextOut::clear(ptr::null_mut(), &mut length, "json")),
            "json is NULL"
        );
        assert_eq!(length, 0);
    }
}

#[test]
fn arrays_go_out() {
    let mut buffer: *mut i32 = ptr::without_provenance_mut(8);
    let mut count = 9;
    // SAFETY: both outputs are writable; the buffers are used before they are freed, once.
    unsafe {
        ArrayOut::clear(&mut buffer, &mut count, "ids")
            .unwrap()
            .put(&[3, -4])
            .unwrap();
        assert_eq!(std::slice::from_raw_parts(buffer, count), [3, -4]);
        release(buffer.cast::<c_void>());
        ArrayOut::clear(&mut buffer, &mut count, "ids")
            .unwrap()
            .put(&[])
            .unwrap();
        assert!(!buffer.is_null() && count == 0);
        release(buffer.cast::<c_void>());
        assert_eq!(
            refused(ArrayOut::clear(&mut buffer, ptr::null_mut(), "ids")),
            "count is NULL"
        );
        assert!(buffer.is_null());
    }
}

#[test]
fn handles_go_out() {
    let mut handle: *mut u8 = ptr::without_provenance_mut(8);
    // SAFETY: the output is writable, or NULL.
    unsafe {
        let out = HandleOut::clear(&mut handle, "out").unwrap();
        assert!(handle.is_null());
        out.put(ptr::without_provenance_mut(16));
        assert_eq!(handle.addr(), 16);
        assert_eq!(
            refused(HandleOut::<u8>::clear(ptr::null_mut(), "out")),
            "out is NULL"
        );
    }
}
