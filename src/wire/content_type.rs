//! Content types: which we know, and which of them a person can read.

/// How data of a content type is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
}

/// What a content type holds; `None`: we do not know it. (Media types as in RFC 9110, 8.3.1: case does not
/// matter. Of the parameters only `charset` does: text that is not UTF-8 is binary data to us.)
pub(super) fn kind(content_type: &str) -> Option<Kind> {
    let content_type = content_type.to_ascii_lowercase();
    let (content_type, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    let utf8 = parameters
        .split(';')
        .filter_map(|parameter| parameter.trim().strip_prefix("charset="))
        .all(|charset| matches!(charset.trim_matches('"'), "utf-8" | "us-ascii"));
    let content_type = content_type.trim_end();
    if parameters.chars().any(char::is_control) {
        return None;
    }
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let (top, sub) = content_type.split_once('/')?;
    if !token(top) || !token(sub) {
        return None;
    }
    let suffix = sub.rsplit_once('+').map(|(_, suffix)| suffix);
    let readable = top == "text"
        || matches!(suffix, Some("json" | "xml"))
        || (top == "application" && matches!(sub, "json" | "xml"));
    let known = matches!(top, "image" | "audio" | "video")
        || (top == "application"
            && (matches!(
                sub,
                "octet-stream"
                    | "protobuf"
                    | "x-protobuf"
                    | "cbor"
                    | "msgpack"
                    | "avro"
                    | "gzip"
                    | "zip"
                    | "pdf"
            ) || sub.starts_with("vnd.")
                || sub.starts_with("x-")));
    match (readable, known) {
        (true, _) if utf8 => Some(Kind::Text),
        (false, false) => None,
        _ => Some(Kind::Binary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_is_readable_or_binary_or_unknown() {
        for readable in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON;Charset=\"UTF-8\"",
            "application/vnd.acme.payment+json",
            "application/xml",
            "text/plain",
        ] {
            assert_eq!(kind(readable), Some(Kind::Text), "{readable}");
        }
        for binary in ["application/octet-stream", "image/png", "text/plain; charset=latin1"] {
            assert_eq!(kind(binary), Some(Kind::Binary), "{binary}");
        }
        for unknown in ["", "json", "application/", "/json", "a/b", "application/jso n", "x/y;z"] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
