//! Which rows of a cut are of one session of their key.
//!
//! Owns: the sessions of the open cut, as spans of time. Does not own: what is aggregated over them
//! (`aggregate`), sessions that are stored (`warehouse::sessions`).
//!
//! Rows come in any order. A row that touches nothing begins a piece, one that touches a piece is
//! of it, and one between two makes a session of both: their pieces go together when the cut ends.

/// The open cut's sessions by key.
pub struct Sessions {
    gap: i64,
    /// By key, in order of time; two neighbours are further apart than the gap.
    keys: Vec<Vec<Span>>,
    /// By piece: the piece that it goes together with, itself for the one that stays.
    joined: Vec<usize>,
    spans: usize,
}

/// From its first to its last event.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: i64,
    last: i64,
    piece: usize,
}

/// The sessions of a cut, each with the number of its key.
pub struct Sealed {
    pub keys: Vec<u32>,
    /// Times of their first events.
    pub starts: Vec<i64>,
    /// A gap after their last events.
    pub ends: Vec<i64>,
    pub session_of_piece: Vec<usize>,
}

impl Sessions {
    pub fn new(gap: i64) -> Self {
        Self { gap, keys: Vec::new(), joined: Vec::new(), spans: 0 }
    }

    /// Pieces so far.
    pub fn pieces(&self) -> usize {
        self.joined.len()
    }

    pub fn memory(&self) -> usize {
        self.keys.len() * size_of::<Vec<Span>>()
            + self.spans * size_of::<Span>()
            + self.joined.len() * size_of::<usize>()
    }

    /// The piece of a row, by the number of its key and its time.
    pub fn piece(&mut self, key: usize, t: i64) -> usize {
        if key >= self.keys.len() {
            self.keys.resize_with(key + 1, Vec::new);
        }
        let spans = &mut self.keys[key];
        // Mostly time goes on: the row is of the last span, or after it.
        let after = match spans.last() {
            Some(last) if last.first <= t => spans.len(),
            _ => spans.partition_point(|span| span.first <= t),
        };
        let touches = |earlier: i64, later: i64| later.saturating_sub(earlier) <= self.gap;
        let before = after.checked_sub(1).filter(|i| touches(spans[*i].last, t));
        let next = (after < spans.len() && touches(t, spans[after].first)).then_some(after);
        match (before, next) {
            (None, None) => {
                let piece = self.joined.len();
                self.joined.push(piece);
                self.spans += 1;
                spans.insert(after, Span { first: t, last: t, piece });
                piece
            }
            (Some(before), None) => {
                let span = &mut spans[before];
                span.last = span.last.max(t);
                span.piece
            }
            (None, Some(next)) => {
                spans[next].first = t;
                spans[next].piece
            }
            (Some(before), Some(next)) => {
                let joined = spans.remove(next);
                self.spans -= 1;
                self.joined[joined.piece] = spans[before].piece;
                spans[before].last = joined.last;
                spans[before].piece
            }
        }
    }

    /// Ends the open cut's sessions and begins with none.
    pub fn take(&mut self) -> Sealed {
        let mut sealed = Sealed {
            keys: Vec::with_capacity(self.spans),
            starts: Vec::with_capacity(self.spans),
            ends: Vec::with_capacity(self.spans),
            session_of_piece: vec![usize::MAX; self.joined.len()],
        };
        for (key, spans) in std::mem::take(&mut self.keys).into_iter().enumerate() {
            for span in spans {
                sealed.session_of_piece[span.piece] = sealed.keys.len();
                sealed.keys.push(key as u32);
                sealed.starts.push(span.first);
                sealed.ends.push(span.last.saturating_add(self.gap));
            }
        }
        for piece in 0..self.joined.len() {
            let mut stays = piece;
            while self.joined[stays] != stays {
                stays = self.joined[stays];
            }
            sealed.session_of_piece[piece] = sealed.session_of_piece[stays];
            self.joined[piece] = stays;
        }
        *self = Self::new(self.gap);
        sealed
    }
}
