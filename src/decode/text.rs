//! A text as JSON: what formats that are none write of theirs.

/// A text as JSON.
pub fn quote(text: &str, out: &mut String) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    match text.bytes().all(plain) {
        true => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        false => out.push_str(&serde_json::to_string(text).expect("a text is JSON")),
    }
}
