//! A table for the terminal: columns as wide as their widest entry, names to the left, numbers to the right.

/// Lines of `rows` under `head`; the columns before `names` are aligned to the left.
pub(crate) fn lines(head: &[&str], rows: &[Vec<String>], names: usize) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &&Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < names { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [vec!["llama".to_owned(), "1".to_owned()], vec!["t5".to_owned(), "×100".to_owned()]];
        assert_eq!(super::lines(&["model", "n"], &rows, 1), ["model     n", "llama     1", "t5     ×100"]);
    }
}
