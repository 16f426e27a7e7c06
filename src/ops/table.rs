//! Tables for people.

/// Columns padded to their widest cell, two blanks between; numbers to the right.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let numeric: Vec<bool> = (0..head.len())
        .map(|i| {
            let mut cells =
                rows.iter().map(|row| row[i].as_str()).filter(|c| !c.is_empty()).peekable();
            cells.peek().is_some() && cells.all(|c| c.parse::<f64>().is_ok())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (i, cell) in cells.enumerate() {
            let pad = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
            match numeric[i] {
                true => line.extend([&pad, cell]),
                false => line.extend([cell, &pad]),
            }
            line.push_str("  ");
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_words_to_the_left() {
        let rows = vec![vec!["a".into(), "5".into()], vec!["long".into(), "100".into()]];
        assert_eq!(render(&["name", "n"], &rows), "name    n\na       5\nlong  100\n");
    }
}
