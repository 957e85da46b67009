//! Pages and charts from templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{
    Environment, Error, HtmlEscape, Output, State, UndefinedBehavior, escape_formatter,
};

/// Fills a template in. What a value holds is escaped.
pub(super) fn render(name: &str, template: &str, values: Value) -> String {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    // A line of a template that holds a tag alone leaves no line in the page.
    let syntax = SyntaxConfig::builder().trim_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_formatter(write_value);
    // The filters that come with minijinja would take a third of its time to compile.
    environment.add_filter("words", |state: &str| state.replace('_', " "));
    environment.add_filter("lower", |word: &str| word.to_lowercase());
    let style = Value::from_safe_string(include_str!("style.css").to_owned());
    environment.add_global("style", style);
    let page = environment.render_named_str(name, template, values);
    page.expect("the template uses what it is given")
}

fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let Some(text) = value.as_str().filter(|_| !value.is_safe()) else {
        return escape_formatter(out, state, value);
    };
    // Control characters are not allowed in a page, not even escaped.
    let text = text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "·");
    // A slash does no harm in a text or a quoted attribute, and paths stay legible.
    let text = HtmlEscape(&text).to_string().replace("&#x2f;", "/");
    Ok(out.write_str(&text)?)
}
