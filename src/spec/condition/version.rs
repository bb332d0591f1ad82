//! Which of two versions is newer, as systemd's `ConditionVersion=` has it: the UAPI group's "Version Format Specification".

use std::cmp::Ordering;

/// Compares two versions.
///
/// Numbers are compared as numbers, words as words, a number is newer than a word; `~` is older than anything, the end
/// included; then come, from the older to the newer, `-`, `^` and `.`. Other characters only part what they stand between.
pub fn order(one: &str, two: &str) -> Ordering {
    let (mut one, mut two) = (one.as_bytes(), two.as_bytes());
    loop {
        (one, two) = (skip(one), skip(two));
        if one.is_empty() && two.is_empty() {
            return Ordering::Equal;
        }
        let (first, second) = (one.first().copied(), two.first().copied());
        match (first == Some(b'~'), second == Some(b'~')) {
            (true, true) => {
                (one, two) = (&one[1..], &two[1..]);
                continue;
            }
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        if first.is_none() || second.is_none() {
            return one.len().cmp(&two.len());
        }
        // Where only one of them goes on with such a mark, the other goes on with more.
        if let Some(mark) = b"-^.".iter().copied().find(|mark| [first, second].contains(&Some(*mark))) {
            if first != second {
                return if first == Some(mark) { Ordering::Less } else { Ordering::Greater };
            }
            (one, two) = (&one[1..], &two[1..]);
            continue;
        }
        let are_digits = [first, second].iter().flatten().any(u8::is_ascii_digit);
        let is_part = |byte: &u8| if are_digits { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let split = |text: &'_ [u8]| text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
        let ((a, rest), (b, other)) = (one.split_at(split(one)), two.split_at(split(two)));
        let order = if are_digits { of_numbers(a, b) } else { a.cmp(b) };
        if order.is_ne() {
            return order;
        }
        (one, two) = (rest, other);
    }
}

/// What stands between the parts and says nothing.
fn skip(text: &[u8]) -> &[u8] {
    let says = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    &text[text.iter().position(says).unwrap_or(text.len())..]
}

/// However many digits they have; none at all is less than a zero.
fn of_numbers(one: &[u8], two: &[u8]) -> Ordering {
    let plain = |digits: &[u8]| {
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        (!digits.is_empty(), digits.len() - zeros, digits[zeros..].to_vec())
    };
    plain(one).cmp(&plain(two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_between_their_points() {
        for (less, more) in [
            ("6.1", "6.12"),
            ("6.9.1", "6.10"),
            ("6.1", "6.1.1"),
            ("6.1-rc2", "6.1.0"),
            ("6.1rc1", "6.1rc2"),
            ("6.12.4-1-amd64", "6.12.4.1"),
            ("6.1~rc1", "6.1"),
            ("6.1", "6.1-1"),
            ("6.1-1", "6.1-2"),
            ("6.a", "6.0"),
            ("6.1^1", "6.1.1"),
            ("6.99999999999999999999998", "6.99999999999999999999999"),
        ] {
            assert_eq!(order(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(order(more, less), Ordering::Greater, "{less} {more}");
        }
        for (one, two) in [("6.1", "6.01"), ("6.1", "6.1"), ("", ""), ("6.1+", "6.1"), ("6_1", "6 1")] {
            assert_eq!(order(one, two), Ordering::Equal, "{one} {two}");
        }
    }
}
