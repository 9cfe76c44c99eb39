//! Gzips a text again whose numbers alone have changed. What repeats in such a text is looked for once, and then only written
//! down for each new one, which takes a fraction of the time that looking takes. Pure.
//!
//! A gzip file (RFC 1952) of one block with fixed codes (RFC 1951, 3.2.6), in which a number is never part of what repeats.

use flate2::Crc;
use std::ops::Range;

/// The furthest back that a repeat may point (RFC 1951, 2).
const MAX_DISTANCE: usize = 32 << 10;
/// The furthest that one is looked for, so that numbers may grow.
const SEARCHED_DISTANCE: usize = MAX_DISTANCE * 3 / 4;
const MAX_LENGTH: usize = 258;
/// What is shorter saves hardly anything.
const MIN_LENGTH: usize = 4;
const HASH_BITS: u32 = 15;

/// How a text repeats itself between its numbers.
pub struct Repeats {
    /// In order, those of each piece of text before, between and behind the numbers.
    tokens: Vec<Token>,
    /// Where the tokens of each piece end.
    ends: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Token {
    /// So many bytes that stand before: in which piece of text, and where therein.
    Repeat { length: u16, piece: u16, offset: u32 },
    /// A few bytes as they are written.
    Bytes { length: u16, code: Code },
}

impl Token {
    fn byte(byte: u8) -> Token {
        Token::Bytes {
            length: 1,
            code: SYMBOLS[usize::from(byte)],
        }
    }

    /// Takes one more byte in, if there is room for it.
    fn take(&mut self, byte: u8) -> bool {
        let next = SYMBOLS[usize::from(byte)];
        match self {
            Token::Bytes { length, code } if code.1 + next.1 <= MAX_BITS => {
                *length += 1;
                *code = join(*code, next);
                true
            }
            _ => false,
        }
    }
}

impl Repeats {
    /// Looks for what repeats in a text with numbers at these places, in bytes and in order. `None` for one that is too long, or
    /// has too many of them.
    pub fn find(text: &[u8], numbers: &[Range<u32>]) -> Option<Repeats> {
        u32::try_from(text.len()).ok()?;
        u16::try_from(numbers.len()).ok()?;
        // The last place of each beginning of a repeat: piece, and where in the text.
        let mut last: Vec<Option<(u16, u32)>> = vec![None; 1 << HASH_BITS];
        let pieces: Vec<Range<usize>> = pieces(text.len(), numbers).collect();
        let mut repeats = Repeats {
            tokens: Vec::new(),
            ends: Vec::with_capacity(pieces.len()),
        };
        for (piece, number) in pieces.iter().zip(0..=u16::MAX) {
            let (mut at, first) = (piece.start, repeats.tokens.len());
            while at < piece.end {
                let candidate = begin(&text[at..piece.end]).and_then(|hash| last[hash]);
                let found = candidate.and_then(|(source, from)| {
                    let (from, end) = (from as usize, pieces[usize::from(source)].end);
                    let length = common(&text[from..end], &text[at..piece.end]);
                    let is_good = length >= MIN_LENGTH && at - from <= SEARCHED_DISTANCE;
                    is_good.then(|| (length, source, from - pieces[usize::from(source)].start))
                });
                let length = match found {
                    Some((length, piece, offset)) => {
                        repeats.tokens.push(Token::Repeat {
                            length: length as u16,
                            piece,
                            offset: offset as u32,
                        });
                        length
                    }
                    None => {
                        let before = repeats.tokens[first..].last_mut();
                        if !before.is_some_and(|before| before.take(text[at])) {
                            repeats.tokens.push(Token::byte(text[at]));
                        }
                        1
                    }
                };
                for place in at..at + length {
                    if let Some(hash) = begin(&text[place..piece.end]) {
                        last[hash] = Some((number, place as u32));
                    }
                }
                at += length;
            }
            repeats.ends.push(repeats.tokens.len() as u32);
        }
        repeats.tokens.shrink_to_fit();
        Some(repeats)
    }

    /// A text that differs from the one that was looked at in its numbers only, as a gzip file. `None` where they have grown so
    /// much that a repeat is out of reach, or are more or fewer.
    pub fn pack(&self, text: &[u8], numbers: &[Range<u32>]) -> Option<Vec<u8>> {
        if numbers.len() + 1 != self.ends.len() {
            return None;
        }
        let pieces: Vec<Range<usize>> = pieces(text.len(), numbers).collect();
        // No name, no time, of no particular system.
        let mut out = Bits::behind(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255], text.len() / 4 + 64);
        // The last block, with fixed codes.
        out.push((0b011, 3));
        let mut begin = 0;
        for (index, (piece, end)) in pieces.iter().zip(&self.ends).enumerate() {
            let mut at = piece.start;
            for token in &self.tokens[begin..*end as usize] {
                at += match *token {
                    Token::Bytes { length, code } => {
                        out.push(code);
                        usize::from(length)
                    }
                    Token::Repeat { length, piece, offset } => {
                        let distance = at - (pieces[usize::from(piece)].start + offset as usize);
                        if distance > MAX_DISTANCE {
                            return None;
                        }
                        let length = usize::from(length);
                        out.push(join(LENGTHS[length], distance_code(distance as u32)));
                        length
                    }
                };
            }
            begin = *end as usize;
            let number = numbers
                .get(index)
                .map_or(&[][..], |place| &text[place.start as usize..place.end as usize]);
            for few in number.chunks(3) {
                let codes = few.iter().map(|byte| SYMBOLS[usize::from(*byte)]);
                out.push(codes.fold((0, 0), join));
            }
        }
        out.push(SYMBOLS[END_OF_BLOCK]);
        let mut check = Crc::new();
        check.update(text);
        let mut packed = out.finish();
        packed.extend_from_slice(&check.sum().to_le_bytes());
        packed.extend_from_slice(&check.amount().to_le_bytes());
        Some(packed)
    }
}

/// What lies before, between and behind the numbers of a text.
fn pieces(length: usize, numbers: &[Range<u32>]) -> impl Iterator<Item = Range<usize>> {
    let starts = std::iter::once(0).chain(numbers.iter().map(|number| number.end as usize));
    let ends = numbers.iter().map(|number| number.start as usize).chain([length]);
    starts.zip(ends).map(|(start, end)| start..end)
}

/// A number for what a text begins with, if that is long enough to be repeated.
fn begin(text: &[u8]) -> Option<usize> {
    let first: [u8; MIN_LENGTH] = text.get(..MIN_LENGTH)?.try_into().ok()?;
    // Knuth's multiplicative hash.
    Some((u32::from_le_bytes(first).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize)
}

/// How many bytes two texts have in common.
fn common(one: &[u8], other: &[u8]) -> usize {
    let both = one.iter().zip(other).take(MAX_LENGTH);
    both.take_while(|(one, other)| one == other).count()
}

/// A code as it is written, first bit lowest, and its length in bits, extra bits included.
type Code = (u32, u32);

/// Of codes that are written at once. A length has 13 at most, a distance 18, a byte 9.
const MAX_BITS: u32 = 32;

/// One behind the other, which must fit.
fn join((first, count): Code, (second, more): Code) -> Code {
    (first | second << count, count + more)
}

const END_OF_BLOCK: usize = 256;

/// The fixed codes of bytes, the end of a block, and lengths (RFC 1951, 3.2.6).
static SYMBOLS: [Code; 288] = {
    let mut codes = [(0, 0); 288];
    let mut symbol = 0_u32;
    while symbol < 288 {
        let (code, bits): Code = match symbol {
            0..=143 => (0b0011_0000 + symbol, 8),
            144..=255 => (0b1_1001_0000 + symbol - 144, 9),
            256..=279 => (symbol - 256, 7),
            _ => (0b1100_0000 + symbol - 280, 8),
        };
        codes[symbol as usize] = (code.reverse_bits() >> (32 - bits), bits);
        symbol += 1;
    }
    codes
};

/// The codes of lengths, of which there are none below 3 (RFC 1951, 3.2.5).
static LENGTHS: [Code; MAX_LENGTH + 1] = {
    let mut codes = [(0, 0); MAX_LENGTH + 1];
    let mut length = 3;
    while length <= MAX_LENGTH {
        let above = length as u32 - 3;
        let (symbol, extra) = match above {
            0..=7 => (257 + above, 0),
            255 => (285, 0),
            _ => {
                let extra = above.ilog2() - 2;
                (257 + 4 * extra + (above >> extra), extra)
            }
        };
        let (code, bits) = SYMBOLS[symbol as usize];
        codes[length] = (code | (above & ((1 << extra) - 1)) << bits, bits + extra);
        length += 1;
    }
    codes
};

/// Of a distance from 1 to 32 KiB (RFC 1951, 3.2.5): 5 bits, and extra bits.
fn distance_code(distance: u32) -> Code {
    let above = distance - 1;
    let (code, extra) = match above.checked_ilog2() {
        None | Some(0) => (above, 0),
        Some(log) => (2 * log + (above >> (log - 1) & 1), log - 1),
    };
    let (symbol, bits) = DISTANCES[code as usize];
    (symbol | (above & ((1 << extra) - 1)) << bits, bits + extra)
}

/// The fixed codes of distances, without extra bits; two of them mean nothing.
static DISTANCES: [Code; 32] = {
    let mut codes = [(0, 5); 32];
    let mut symbol = 0_u32;
    while symbol < 32 {
        codes[symbol as usize].0 = symbol.reverse_bits() >> (32 - 5);
        symbol += 1;
    }
    codes
};

/// Bits behind each other, first bit lowest.
struct Bits {
    bytes: Vec<u8>,
    waiting: u64,
    count: u32,
}

impl Bits {
    fn behind(head: &[u8], capacity: usize) -> Bits {
        let mut bytes = Vec::with_capacity(head.len() + capacity);
        bytes.extend_from_slice(head);
        Bits {
            bytes,
            waiting: 0,
            count: 0,
        }
    }

    fn push(&mut self, (bits, count): Code) {
        self.waiting |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.waiting as u32).to_le_bytes());
            self.waiting >>= 32;
            self.count -= 32;
        }
    }

    /// All of them, the last byte filled up.
    fn finish(mut self) -> Vec<u8> {
        let rest = self.waiting.to_le_bytes();
        self.bytes.extend_from_slice(&rest[..self.count.div_ceil(8) as usize]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::Read;

    /// Words, each with a number behind it.
    fn text(words: &[String], numbers: &[String]) -> (Vec<u8>, Vec<Range<u32>>) {
        let (mut text, mut places) = (String::new(), Vec::new());
        for (word, number) in words.iter().zip(numbers) {
            text += word;
            let start = text.len() as u32;
            text += number;
            places.push(start..text.len() as u32);
        }
        text += words.last().map_or("", String::as_str);
        (text.into_bytes(), places)
    }

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut text).unwrap();
        text
    }

    /// Bytes of which no four in a row come twice.
    fn noise(length: usize) -> Vec<u8> {
        let words = (0_u32..).map(|number| number.wrapping_mul(0x9e37_79b1).to_be_bytes());
        words.flatten().take(length).collect()
    }

    fn repeated(token: &Token) -> usize {
        match token {
            Token::Repeat { length, .. } => usize::from(*length) - 1,
            Token::Bytes { .. } => 0,
        }
    }

    /// Repeats as told, whether they would be found or not.
    #[test]
    fn every_length_and_every_distance_is_understood() {
        let mut text = noise(MAX_DISTANCE);
        let mut tokens: Vec<Token> = text.iter().copied().map(Token::byte).collect();
        let distances = (1..=MAX_DISTANCE).map(|distance| (3, distance));
        for (length, distance) in distances.chain((3..=MAX_LENGTH).flat_map(|length| [(length, 1), (length, 300)])) {
            tokens.push(Token::Repeat {
                length: length as u16,
                piece: 0,
                offset: (text.len() - distance) as u32,
            });
            (0..length).for_each(|_| text.push(text[text.len() - distance]));
        }
        let ends = vec![tokens.len() as u32];
        let packed = Repeats { tokens, ends }.pack(&text, &[]).unwrap();
        assert!(unpacked(&packed) == text);
    }

    #[test]
    fn what_comes_again_is_found() {
        for (distance, length) in [
            (1, 5),
            (2, 258),
            (7, 300),
            (300, 4),
            (300, 1000),
            (SEARCHED_DISTANCE, 20),
        ] {
            let mut text = noise(distance.max(length));
            (0..length).for_each(|_| text.push(text[text.len() - distance]));
            let repeats = Repeats::find(&text, &[]).unwrap();
            let found: usize = repeats.tokens.iter().map(repeated).sum();
            assert!(found + 8 >= length, "{found} of {length} bytes, {distance} back");
            assert!(unpacked(&repeats.pack(&text, &[]).unwrap()) == text);
            assert!(
                repeats.pack(&text, &[0..1, 2..3]).is_none(),
                "another number of numbers"
            );
        }
    }

    #[test]
    fn a_scrape_becomes_about_as_small_as_by_looking_each_time() {
        let words: Vec<String> = (0..600)
            .map(|number| format!("\n# HELP metric_{number} Some help.\n# TYPE metric_{number} gauge\nmetric_{number}{{device=\"sd{}\"}} ", number % 7))
            .collect();
        let numbers: Vec<String> = (0..600).map(|number| (number * 7919).to_string()).collect();
        let (text, places) = text(&words, &numbers);
        let packed = Repeats::find(&text, &places).unwrap().pack(&text, &places).unwrap();
        assert_eq!(unpacked(&packed), text);
        let looked = crate::publish::gzip::Compressor::default().compress(&text).unwrap();
        assert!(
            packed.len() < looked.len() * 5 / 4,
            "{} and {} bytes",
            packed.len(),
            looked.len()
        );
    }

    #[test]
    fn where_numbers_push_a_repeat_out_of_reach_it_is_given_up() {
        let words = ["a long enough word ".to_owned(), "a long enough word ".to_owned()];
        let with = |digits: usize| text(&words, &["1".repeat(digits), String::new()]);
        let (short, places) = with(10);
        let repeats = Repeats::find(&short, &places).unwrap();
        for (digits, is_within) in [(10, true), (MAX_DISTANCE - 19, true), (MAX_DISTANCE - 18, false)] {
            let (text, places) = with(digits);
            let packed = repeats.pack(&text, &places);
            assert_eq!(packed.as_deref().map(unpacked), is_within.then_some(text), "{digits}");
        }
    }

    proptest! {
        #[test]
        fn any_text_with_any_numbers_is_unpacked_again(
            words in vec("(abcd|abcdefgh|x\\{y=\"z\"\\} |\u{e4}|\n){0,12}", 1..30),
            rounds in vec(vec("[0-9.e+-]{0,24}", 30), 1..4),
        ) {
            let (first, places) = text(&words, &rounds[0]);
            let repeats = Repeats::find(&first, &places).unwrap();
            for numbers in &rounds {
                let (text, places) = text(&words, numbers);
                prop_assert_eq!(unpacked(&repeats.pack(&text, &places).unwrap()), text);
            }
        }
    }
}
