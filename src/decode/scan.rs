//! A strict JSON scanner: steps over one value at a time, checks every byte, keeps nothing.
//!
//! Owns: the grammar of RFC 8259, as serde_json takes it: no raw control characters, no lone
//! surrogates, no leading zeros, at most [`DEPTH_MAX`] open containers. Does not own: UTF-8 (the
//! caller gives a `str`), which fields are wanted (see `fields`), what values mean (`convert`).
//!
//! Why not a library, by what `benches/decode` measures (times the CPU of this way, over the same taps):
//! * arrow-json, 1.9: takes raw control characters, `01`, a comma too many, and 5.5 as an integer; one broken
//!   record ends its batch and is not named.
//! * sonic-rs, 1.6: takes lone surrogates and `\uZZZZ` in fields that nobody asked for; its object iterator
//!   allocates each key and recurses without limit, so that one hostile record would end the process.
//! * simd-json by its tape, 1.0: as strict and as fast. But its numbers are of 64 bits, while a column of text
//!   takes 1.50 as it came, `numeric` all its digits, and `jsonb` the text of the value (D-2); and it
//!   writes into its input, which is librdkafka's, so that each record is copied first.

/// Containers open at once; a record that goes deeper is refused. serde_json's limit.
pub const DEPTH_MAX: u32 = 127;

/// Where the text stops being JSON, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    pub at: usize,
    pub why: &'static str,
}

/// A place in a text. The functions that name a token expect `at` on its first byte and leave it
/// after its last.
pub struct Scanner<'a> {
    pub text: &'a str,
    pub at: usize,
    /// Set when a string with a backslash was stepped over; the caller clears it.
    pub escaped: bool,
    depth: u32,
}

const EVERY: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = EVERY * 0x80;

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, escaped: false, depth: 0 }
    }

    #[inline(always)]
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[cold]
    pub fn broken<T>(&self, why: &'static str) -> Result<T, Broken> {
        let why = if self.at >= self.text.len() { "the text ends too early" } else { why };
        Err(Broken { at: self.at.min(self.text.len()), why })
    }

    #[inline(always)]
    pub fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline(always)]
    pub fn expect(&mut self, byte: u8, why: &'static str) -> Result<(), Broken> {
        if self.peek() != Some(byte) {
            return self.broken(why);
        }
        self.at += 1;
        Ok(())
    }

    /// The text ends here, but for white space.
    pub fn finish(&mut self) -> Result<(), Broken> {
        self.skip_space();
        if self.at < self.text.len() {
            return self.broken("there is more after the end of the value");
        }
        Ok(())
    }

    /// Opens a container; each `open` is paired with a `close` or ends the scan.
    #[inline(always)]
    pub fn open(&mut self) -> Result<(), Broken> {
        if self.depth == DEPTH_MAX {
            return self.broken("more than 127 objects and arrays inside each other");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Containers that are open.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    #[inline(always)]
    pub fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    pub fn value(&mut self) -> Result<(), Broken> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.broken("a value is wanted here"),
        }
    }

    #[inline]
    pub fn string(&mut self) -> Result<(), Broken> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            // Eight bytes at once: the high bit of each byte that is a quote, a backslash or a
            // control character. Borrows can set bits above the first true one, never below it.
            while let Some(eight) = bytes.get(self.at..self.at + 8) {
                let word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
                let quote = word ^ (EVERY * b'"' as u64);
                let backslash = word ^ (EVERY * b'\\' as u64);
                let special = (quote.wrapping_sub(EVERY) & !quote)
                    | (backslash.wrapping_sub(EVERY) & !backslash)
                    | (word.wrapping_sub(EVERY * 0x20) & !word);
                let special = special & HIGH;
                if special != 0 {
                    self.at += (special.trailing_zeros() / 8) as usize;
                    break;
                }
                self.at += 8;
            }
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => return self.broken("a raw control character in a string"),
                Some(_) => self.at += 1,
                None => return self.broken("the string is not closed"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Broken> {
        self.escaped = true;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let start = self.at - 1;
                match self.code_unit()? {
                    0xDC00..=0xDFFF => {
                        self.at = start;
                        self.broken("a low surrogate without its high one")
                    }
                    0xD800..=0xDBFF => {
                        let rest = &self.text.as_bytes()[self.at..];
                        if !rest.starts_with(b"\\u") {
                            self.at = start;
                            return self.broken("a high surrogate without its low one");
                        }
                        self.at += 1;
                        match self.code_unit()? {
                            0xDC00..=0xDFFF => Ok(()),
                            _ => {
                                self.at = start;
                                self.broken("a high surrogate without its low one")
                            }
                        }
                    }
                    _ => Ok(()),
                }
            }
            _ => self.broken("no such escape"),
        }
    }

    /// `uXXXX`, with `at` on the `u`.
    fn code_unit(&mut self) -> Result<u32, Broken> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            match self.peek().and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => unit = unit * 16 + digit,
                None => return self.broken("four hexadecimal digits are wanted after \\u"),
            }
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Broken> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.peek() {
                return self.broken("a number begins with a zero");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Broken> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.broken("a digit is wanted here") } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Broken> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.broken("neither true nor false nor null");
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self) -> Result<(), Broken> {
        self.open()?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.broken("a key in quotes is wanted here");
            }
            self.string()?;
            self.colon()?;
            self.value()?;
            if !self.comma(b'}', "a comma or } is wanted here")? {
                return Ok(());
            }
        }
    }

    fn array(&mut self) -> Result<(), Broken> {
        self.open()?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            self.value()?;
            if !self.comma(b']', "a comma or ] is wanted here")? {
                return Ok(());
            }
        }
    }

    /// Between a key and its value.
    #[inline(always)]
    pub fn colon(&mut self) -> Result<(), Broken> {
        self.skip_space();
        self.expect(b':', "a colon is wanted here")?;
        self.skip_space();
        Ok(())
    }

    /// After an entry: true when another one follows, false when the container is closed.
    #[inline(always)]
    pub fn comma(&mut self, closing: u8, why: &'static str) -> Result<bool, Broken> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            Some(byte) if byte == closing => {
                self.close();
                Ok(false)
            }
            _ => self.broken(why),
        }
    }
}

/// Calls back for each member of a JSON object, with the key as it is written (without its quotes)
/// and the value's text. Of anything but an object: an error.
pub fn members<'a>(text: &'a str, mut each: impl FnMut(&'a str, &'a str)) -> Result<(), Broken> {
    let mut scan = Scanner::new(text);
    scan.skip_space();
    if scan.peek() != Some(b'{') {
        return scan.broken("not an object");
    }
    scan.open()?;
    scan.skip_space();
    if scan.peek() == Some(b'}') {
        scan.close();
        return scan.finish();
    }
    loop {
        let key = scan.at;
        if scan.peek() != Some(b'"') {
            return scan.broken("a key in quotes is wanted here");
        }
        scan.string()?;
        let key = &text[key + 1..scan.at - 1];
        scan.colon()?;
        let value = scan.at;
        scan.value()?;
        each(key, &text[value..scan.at]);
        if !scan.comma(b'}', "a comma or } is wanted here")? {
            return scan.finish();
        }
    }
}

/// Calls back for each element of a JSON array; of anything else: an error.
pub fn elements<'a>(text: &'a str, mut each: impl FnMut(&'a str)) -> Result<(), Broken> {
    let mut scan = Scanner::new(text);
    scan.skip_space();
    if scan.peek() != Some(b'[') {
        return scan.broken("not an array");
    }
    scan.open()?;
    scan.skip_space();
    if scan.peek() == Some(b']') {
        scan.close();
        return scan.finish();
    }
    loop {
        let start = scan.at;
        scan.value()?;
        each(&text[start..scan.at]);
        if !scan.comma(b']', "a comma or ] is wanted here")? {
            return scan.finish();
        }
    }
}

/// `starts_with`, without a call for what is short: keys, mostly.
#[inline(always)]
pub fn begins(text: &[u8], with: &[u8]) -> bool {
    let eight = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let four = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    match with.len() {
        len if text.len() < len => false,
        len @ 4..8 => four(text, 0) == four(with, 0) && four(text, len - 4) == four(with, len - 4),
        len @ 8..=16 => {
            eight(text, 0) == eight(with, 0) && eight(text, len - 8) == eight(with, len - 8)
        }
        _ => text.starts_with(with),
    }
}

/// A value, where it is not null.
pub fn there(raw: &str) -> Option<&str> {
    (raw != "null").then_some(raw)
}

/// A string without its quotes, as it is written; anything else as it is.
pub fn plain(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw)
}

/// The content of a string whose raw form (without its quotes) the scanner has passed, into
/// `content`, which is cleared before.
pub fn unescape(raw: &str, content: &mut String) {
    content.clear();
    let mut rest = raw;
    while let Some(backslash) = rest.find('\\') {
        content.push_str(&rest[..backslash]);
        let kind = rest.as_bytes()[backslash + 1];
        rest = &rest[backslash + 2..];
        let plain = match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = |text: &str| u32::from_str_radix(&text[..4], 16).unwrap_or(0xFFFD);
                let high = unit(rest);
                rest = &rest[4..];
                let code = if (0xD800..0xDC00).contains(&high) {
                    let low = unit(&rest[2..]);
                    rest = &rest[6..];
                    0x10000 + ((high - 0xD800) << 10) + (low.wrapping_sub(0xDC00) & 0x3FF)
                } else {
                    high
                };
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            itself => char::from(itself),
        };
        content.push(plain);
    }
    content.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Result<(), Broken> {
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        scanner.value()?;
        scanner.finish()
    }

    #[test]
    fn json_passes_and_what_is_not_json_is_refused_at_its_place() {
        for good in [
            "0",
            "-0",
            "10",
            "-1.5",
            "1e5",
            "1E-05",
            "0.1e+9",
            "true",
            "false",
            "null",
            "\"\"",
            "[]",
            "{}",
            "[ ]",
            "{ }",
            " [1 , 2]\n",
            r#"{"a":{"b":[1,{"c":null}]}}"#,
            r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#,
            "\"ünïcödé über alles\"",
            "\"\u{7f}\"",
        ] {
            assert_eq!(scan(good), Ok(()), "{good}");
        }
        for (bad, at) in [
            ("", 0),
            ("01", 1),
            ("-", 1),
            ("1.", 2),
            (".5", 0),
            ("1e", 2),
            ("+1", 0),
            ("NaN", 0),
            ("nul", 0),
            ("True", 0),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\"}", 4),
            ("{a:1}", 1),
            ("{\"a\":1,}", 7),
            ("{\"a\" 1}", 5),
            ("1 2", 2),
            ("\"a", 2),
            ("\"a\nb\"", 2),
            ("\"\\x\"", 2),
            ("\"\\u12g4\"", 5),
            ("\"\\ud800\"", 1),
            ("\"\\udc00\"", 1),
            ("\"\\ud800\\u0041\"", 1),
            ("\"\\", 2),
            ("\"12345678\u{1}\"", 9),
            ("[}", 1),
            ("\u{feff}{}", 0),
        ] {
            assert_eq!(scan(bad).map_err(|b| b.at), Err(at), "{bad}");
        }
    }

    #[test]
    fn a_million_brackets_are_refused_and_do_not_overflow_the_stack() {
        let nest = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(scan(&nest(127)), Ok(()));
        assert_eq!(scan(&nest(128)).map_err(|b| b.at), Err(127));
        assert!(scan(&"[".repeat(1_000_000)).is_err());
        assert!(scan(&"{\"a\":".repeat(1_000_000)).is_err());
    }

    #[test]
    fn escapes_become_what_they_stand_for() {
        let mut content = String::from("left over");
        for (raw, plain) in [
            ("", ""),
            ("plain", "plain"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"a\u00e9b\ud83d\ude00c", "aéb😀c"),
            (r"\\u0041", r"\u0041"),
        ] {
            unescape(raw, &mut content);
            assert_eq!(content, plain, "{raw}");
        }
    }
}
