//! The tables of the reference pages, for the tests that compare them with the code.

use super::Object;

/// A table of the keys in Markdown.
pub fn markdown(object: &Object) -> String {
    let mut table = "| key | type | meaning |\n| --- | --- | --- |\n".to_owned();
    for key in object.keys {
        let required = if key.required { " (required)" } else { "" };
        table.push_str(&format!(
            "| `{}`{required} | {} | {} |\n",
            key.name, key.kind, key.about
        ));
    }
    table
}
