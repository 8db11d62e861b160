//! The edits, as functions from a file's text to its new text. What else is in a file stays as it was, to the byte.

use anyhow::{Context, Result, anyhow, bail};
use toml_edit::{DocumentMut, InlineTable, Item, Key, Table, TomlError, Value};

use super::name::Name;

/// The workspace's manifest with the backend among its dependencies, behind the other packages of its own.
pub(super) fn workspace(text: &str, name: &Name) -> Result<String> {
    let mut manifest = parse(text)?;
    let dependencies = manifest
        .get_mut("workspace")
        .and_then(|workspace| workspace.get_mut("dependencies"))
        .and_then(Item::as_table_mut)
        .context("no [workspace.dependencies]")?;
    let package = format!("consort-{}", name.kebab);
    let path = [("path", Value::from(format!("backends/{package}")))];
    let own = dependencies.iter().take_while(|(key, _)| key.starts_with("consort")).count();
    insert(dependencies, own, &package, inline(path))?;
    Ok(manifest.to_string())
}

/// A package's manifest with a feature, in `default` if asked, and the optional dependency that it stands for.
pub(super) fn package(text: &str, name: &Name, by_default: bool) -> Result<String> {
    let mut manifest = parse(text)?;
    let package = format!("consort-{}", name.kebab);

    let features = manifest.get_mut("features").and_then(Item::as_table_mut).context("no [features]")?;
    if by_default {
        let default = features.get_mut("default").and_then(Item::as_array_mut);
        default.context("no `default = […]` in [features]")?.push(&*name.kebab);
    }
    let feature: Value = [format!("dep:{package}")].into_iter().collect();
    insert(features, features.len(), &name.kebab, feature)?;
    if let Some(mut key) = features.key_mut(&name.kebab) {
        key.leaf_decor_mut().set_prefix(format!("# backends/{package}.\n"));
    }

    let dependencies = manifest.get_mut("dependencies").and_then(Item::as_table_mut).context("no [dependencies]")?;
    let place = dependencies.iter().take_while(|(key, _)| *key < &*package).count();
    let optional = [("workspace", Value::from(true)), ("optional", Value::from(true))];
    insert(dependencies, place, &package, inline(optional))?;
    Ok(manifest.to_string())
}

/// The command's list of backends with this one at its end.
pub(super) fn command(text: &str, name: &Name) -> Result<String> {
    let line = format!(
        "{:?} [\"f32\", \"bf16\", \"f16\"] [\"f32\", \"bf16\", \"int8\"]\n        \
         \"new: what is not native yet runs on the scalar backend\"\n        \
         => |model, options| model.load_on({}, options);",
        name.kebab,
        name.constructor()
    );
    append(text, "backends", &line)
}

/// The runner's list of backends with this one at its end.
pub(super) fn runner(text: &str, name: &Name) -> Result<String> {
    append(text, "candidates", &format!("{:?} => || Ok({});", name.kebab, name.constructor()))
}

/// A Rust file with a line at the end of `list! { … }`: the macro's call at the start of a line, up to the brace that closes
/// it at the start of another.
fn append(text: &str, list: &str, line: &str) -> Result<String> {
    let missing = || format!("no list `{list}! {{ … }}`");
    let head = format!("\n{list}! {{\n");
    let (before, rest) = text.split_once(&head).with_context(missing)?;
    if rest.contains(&head) {
        bail!("two lists `{list}! {{ … }}`");
    }
    let (entries, after) = rest.split_once("\n}\n").with_context(missing)?;
    Ok(format!("{before}{head}{entries}\n    {line}\n}}\n{after}"))
}

/// The error of a manifest on one line, without the drawing of where it is.
pub(super) fn one_line(error: TomlError) -> anyhow::Error {
    anyhow!("{}", error.to_string().lines().next().unwrap_or_default())
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(one_line)
}

fn inline<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::from(pairs.into_iter().collect::<InlineTable>())
}

/// Puts an entry at `place`; those from there on follow it as they were written.
fn insert(table: &mut Table, place: usize, key: &str, value: Value) -> Result<()> {
    if table.contains_key(key) {
        bail!("there is a '{key}' already");
    }
    let later: Vec<String> = table.iter().skip(place).map(|(key, _)| key.to_owned()).collect();
    let later: Vec<(Key, Item)> = later.iter().filter_map(|key| table.remove_entry(key)).collect();
    table.insert(key, Item::Value(value));
    for (key, item) in later {
        table.insert_formatted(&key, item);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::name::Taken, *};

    fn name() -> Name {
        Name::new("my-gpu", &Taken::default()).ok().unwrap()
    }

    #[test]
    fn the_workspace_names_it_behind_its_own_packages() {
        let text =
            "[workspace.dependencies]\nconsort = { path = \"c\" }\n\n# Errors.\nanyhow = \"1\" # why\n[profile.dev]\n";
        assert_eq!(
            workspace(text, &name()).unwrap(),
            "[workspace.dependencies]\nconsort = { path = \"c\" }\nconsort-my-gpu = { path = \"backends/consort-my-gpu\" }\n\n\
             # Errors.\nanyhow = \"1\" # why\n[profile.dev]\n"
        );
        assert_eq!(workspace("[workspace]\n", &name()).unwrap_err().to_string(), "no [workspace.dependencies]");
        let twice = workspace(&workspace(text, &name()).unwrap(), &name()).unwrap_err();
        assert_eq!(twice.to_string(), "there is a 'consort-my-gpu' already");
    }

    #[test]
    fn a_package_gets_a_feature_and_a_dependency_in_its_place() {
        let text = "[features]\ndefault = [\"scalar\"]\n# It.\nscalar = [\"dep:consort-scalar\"]\n\n[dependencies]\n\
                    anyhow.workspace = true\nconsort-core.workspace = true\n# The reference.\n\
                    consort-scalar = { workspace = true, optional = true }\n";
        let feature = "# backends/consort-my-gpu.\nmy-gpu = [\"dep:consort-my-gpu\"]\n";
        let dependency = "consort-my-gpu = { workspace = true, optional = true }\n";
        let expected =
            text.replace("\n\n[dep", &format!("\n{feature}\n[dep")).replace("# The", &format!("{dependency}# The"));
        assert_eq!(package(text, &name(), false).unwrap(), expected);
        let by_default = expected.replace("[\"scalar\"]", "[\"scalar\", \"my-gpu\"]");
        assert_eq!(package(text, &name(), true).unwrap(), by_default);
    }

    #[test]
    fn a_list_gets_a_last_line() {
        let text = "x!();\n\nlists! {\n    1;\n}\n\nlist! {\n    a;\n}\n\nfn f() {\n}\n";
        let to = |text: &str| append(text, "list", "b;");
        assert_eq!(to(text).unwrap(), text.replace("a;\n", "a;\n    b;\n"));
        assert_eq!(to("fn f() {\n}\n").unwrap_err().to_string(), "no list `list! { … }`");
        assert!(to(&[text, text].concat()).is_err());
    }
}
