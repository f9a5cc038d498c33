//! Protobuf's wire format by hand: varints, and fields by their numbers. What is written with it are the log and the
//! indexes on disk; what is read, also the events of requests.
//! (protobuf.dev, "Encoding"; groups, which proto3 does not have, are refused.)

use super::format::FormatError;

pub(super) const VARINT: u8 = 0;
const FIXED64: u8 = 1;
pub(super) const LENGTH: u8 = 2;
pub(super) const FIXED32: u8 = 5;

pub(super) const fn tag(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

/// Appends `value` as a base-128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// How many bytes [`put_varint`] writes: 1 to 10.
pub fn varint_size(value: u64) -> usize {
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Takes the varint off the start of `bytes`.
pub fn take_varint(bytes: &mut &[u8]) -> Result<u64, FormatError> {
    let (value, size) = read_varint(bytes)?;
    *bytes = &bytes[size..];
    Ok(value)
}

/// The varint at the start of `bytes`, and how many bytes it takes.
#[expect(clippy::inline_always, reason = "as for `take_field`")]
#[inline(always)]
pub(super) fn read_varint(bytes: &[u8]) -> Result<(u64, usize), FormatError> {
    // Nearly all are tags and lengths, of one byte or two.
    match bytes {
        [byte, ..] if byte & 0x80 == 0 => Ok((u64::from(*byte), 1)),
        [low, high, ..] if high & 0x80 == 0 => {
            Ok((u64::from(low & 0x7f) | u64::from(*high) << 7, 2))
        }
        _ => read_long_varint(bytes),
    }
}

#[cold]
fn read_long_varint(bytes: &[u8]) -> Result<(u64, usize), FormatError> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let low = u64::from(byte & 0x7f);
        if index == 9 && low > 1 {
            return Err(FormatError::Varint);
        }
        value |= low << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(FormatError::Varint)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(tag(field, LENGTH));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What a field of a protobuf message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    /// Of 4 or 8 bytes.
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

/// Takes the next field off `bytes`, its number and what it holds; `None` at the end.
#[expect(clippy::inline_always, reason = "by way of memory the answer costs more than the work")]
#[inline(always)]
pub fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u64, Value<'a>)>, FormatError> {
    let [key, rest @ ..] = *bytes else { return Ok(None) };
    // Nearly all are of bytes, and of the first 15 numbers: the key is one byte.
    if key & 0x87 == LENGTH && key >> 3 > 0 {
        let (length, size) = read_varint(rest)?;
        let (value, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| rest[size..].split_at_checked(length))
            .ok_or(FormatError::Truncated)?;
        *bytes = rest;
        return Ok(Some((u64::from(key >> 3), Value::Bytes(value))));
    }
    take_any_field(bytes).map(Some)
}

#[inline(never)]
fn take_any_field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Value<'a>), FormatError> {
    let key = u32::try_from(take_varint(bytes)?).map_err(|_| FormatError::Tag)?;
    let fixed = |bytes: &mut &'a [u8], size: usize| {
        let (head, rest) = bytes.split_at_checked(size).ok_or(FormatError::Truncated)?;
        *bytes = rest;
        Ok(head)
    };
    let wire_type = u8::try_from(key & 7).expect("three bits");
    let value = match wire_type {
        VARINT => Value::Number(take_varint(bytes)?),
        FIXED64 => Value::Fixed(fixed(bytes, 8)?),
        FIXED32 => Value::Fixed(fixed(bytes, 4)?),
        LENGTH => {
            let length = take_varint(bytes)?;
            let length = usize::try_from(length).map_err(|_| FormatError::Truncated)?;
            Value::Bytes(fixed(bytes, length)?)
        }
        _ => return Err(FormatError::Tag),
    };
    match u64::from(key >> 3) {
        0 => Err(FormatError::Tag),
        number => Ok((number, value)),
    }
}
