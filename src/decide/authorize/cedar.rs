//! Cedar by its syntax tree: the words that scopes and rules are compiled to, and the request
//! that an action becomes. No policy is ever put together from text.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cedar_policy::pst::{
    ActionConstraint, BinaryOp, Clause, Effect as Verdict, EntityOrSlot, EntityType, EntityUID, Expr, Literal, Name, PatternElem,
    PolicyID, PrincipalConstraint, ResourceConstraint, SmolStr, StaticPolicy, Template, Var,
};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, Request, RestrictedExpression,
    Schema, ValidationMode, Validator,
};

use super::arguments::Values;
use crate::api::{Amount, Effect, Pattern};

/// The schema, as it is published.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("a test reads the schema");
    Validator::new(schema)
});

/// Kinds of entities.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A running task.
    Task,
    /// An agent.
    Agent,
    /// A ToolServer.
    Server,
    /// A tool.
    Tool,
    /// What an action does.
    Action,
    /// Holder of texts.
    Texts,
    /// Holder of numbers.
    Numbers,
    /// Holder of booleans.
    Flags,
    /// Holder of lists.
    Lists,
}

impl Kind {
    const ALL: [Self; 9] =
        [Self::Task, Self::Agent, Self::Server, Self::Tool, Self::Action, Self::Texts, Self::Numbers, Self::Flags, Self::Lists];

    fn word(self) -> &'static str {
        match self {
            Self::Task => "Task",
            Self::Agent => "Agent",
            Self::Server => "Server",
            Self::Tool => "Tool",
            Self::Action => "Action",
            Self::Texts => "Texts",
            Self::Numbers => "Numbers",
            Self::Flags => "Flags",
            Self::Lists => "Lists",
        }
    }

    /// The type of such entities.
    fn type_name(self) -> EntityTypeName {
        static NAMES: LazyLock<Vec<EntityTypeName>> = LazyLock::new(|| {
            let name = |kind: &Kind| format!("Mandate::{}", kind.word()).parse().expect("these words are Cedar names");
            Kind::ALL.iter().map(name).collect()
        });
        NAMES[self as usize].clone()
    }

    /// One such entity.
    #[must_use]
    pub fn uid(self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.type_name(), EntityId::new(id))
    }

    fn in_tree(self, id: &str) -> EntityUID {
        let name = Name::qualified(["Mandate"], self.word()).expect("these words are Cedar names");
        EntityUID { ty: EntityType::from_name(name), eid: SmolStr::from(id) }
    }
}

/// An expression.
pub type Node = Arc<Expr>;

/// What actions a policy is about, in the head of the policy.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// One tool; none means every tool.
    pub tool: Option<String>,
    /// Effects; none named means every one.
    pub effects: Vec<Effect>,
}

/// One policy: a permit or a forbid with an id that leads back to object and rule.
///
/// # Errors
/// What Cedar has against it, in its own words.
pub fn policy(id: &str, permit: bool, head: &Head, when: Vec<Node>) -> Result<Policy, String> {
    let actions = || head.effects.iter().map(|effect| Kind::Action.in_tree(effect.as_str())).collect();
    let action = if head.effects.is_empty() { ActionConstraint::Any } else { ActionConstraint::In(actions()) };
    let resource = head
        .tool
        .as_ref()
        .map_or(ResourceConstraint::Any, |tool| ResourceConstraint::Eq(EntityOrSlot::Entity(Kind::Tool.in_tree(tool))));
    let effect = if permit { Verdict::Permit } else { Verdict::Forbid };
    let template = Template::new(PolicyID(SmolStr::from(id)), effect, PrincipalConstraint::Any, action, resource)
        .with_annotations(BTreeMap::from([("id".to_owned(), SmolStr::from(id))]))
        .try_with_clauses(when.into_iter().map(Clause::When).collect::<Vec<_>>())
        .map_err(|error| error.to_string())?;
    let fixed: StaticPolicy = template.try_into().map_err(|_| "a slot in a policy".to_owned())?;
    Policy::from_pst(cedar_policy::pst::Policy::Static(fixed)).map_err(|error| error.to_string())
}

/// The policies of one slice, each validated strictly against the schema.
///
/// # Errors
/// Per policy, what is wrong with it.
pub fn set(policies: impl IntoIterator<Item = Policy>) -> Result<PolicySet, String> {
    PolicySet::from_policies(policies).map_err(|error| error.to_string())
}

/// Validates one policy strictly against the schema.
///
/// # Errors
/// What is wrong, in Cedar's words.
pub fn validate(policy: &Policy) -> Result<(), String> {
    let set = set([policy.clone()])?;
    let result = VALIDATOR.validate(&set, ValidationMode::Strict);
    let wrong: Vec<String> = result.validation_errors().map(|error| plain(&error.to_string())).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Without the id of the policy, which the reader knows better.
fn plain(error: &str) -> String {
    error.split_once(", ").filter(|(first, _)| first.starts_with("for policy")).map_or(error, |(_, rest)| rest).to_owned()
}

/// Reads an expert's expression: exactly one Cedar expression, and nothing around it.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &str) -> Result<Node, String> {
    // Read as the one condition of a policy. A text that closes the condition and opens
    // something of its own makes another shape, and is refused.
    let policy = Policy::parse(None, format!("forbid (principal, action, resource) when {{\n{text}\n}};"))
        .map_err(|error| error.to_string())?;
    let tree = policy.to_pst().map_err(|error| error.to_string())?;
    let body = tree.body();
    let bare = body.annotations.is_empty()
        && body.effect == Verdict::Forbid
        && matches!(body.principal, PrincipalConstraint::Any)
        && matches!(body.action, ActionConstraint::Any)
        && matches!(body.resource, ResourceConstraint::Any);
    match body.clauses().as_slice() {
        [Clause::When(expression)] if bare => Ok(expression.clone()),
        _ => Err("must be one expression, without `when`, `unless` or another policy".to_owned()),
    }
}

/// What policies look at of an action. The rest of the action is not put into Cedar's words, which
/// would cost more than the policies themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks(u32);

impl Looks {
    /// At everything.
    pub const ALL: Self = Self(u32::MAX);

    /// What some conditions look at. One that takes the context as a whole looks at everything.
    #[must_use]
    pub fn of(nodes: &[Node]) -> Self {
        let at = |expression: &Expr| match expression {
            Expr::GetAttr { expr, attr } if matches!(**expr, Expr::Var(Var::Context)) => Some(Self::at(attr)),
            Expr::HasAttr { expr, attrs } if matches!(**expr, Expr::Var(Var::Context)) => Some(Self::at(attrs.first())),
            Expr::Var(Var::Context) => Some(Self::ALL),
            _ => None,
        };
        nodes.iter().map(|node| node.reduce(&at, &Self::and, Self::default())).fold(Self::default(), Self::and)
    }

    fn at(name: &str) -> Self {
        Attribute::ALL.into_iter().find(|(_, known)| *known == name).map_or(Self::ALL, |(attribute, _)| attribute.bit())
    }

    /// What either looks at.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it looks at arguments, whose holders must then be there.
    #[must_use]
    pub fn at_arguments(self) -> bool {
        self.includes(Attribute::Arguments)
    }

    /// Whether it looks at properties that enforcement points give.
    #[must_use]
    pub fn at_properties(self) -> bool {
        self.includes(Attribute::SubjectProperties) || self.includes(Attribute::ResourceProperties)
    }

    /// Whether of the context it looks at no more than whose scope it is and the class of the data.
    #[must_use]
    pub fn at_class_alone(self) -> bool {
        let alone = [Attribute::Namespace, Attribute::Scope, Attribute::Classification];
        self.0 & !alone.into_iter().fold(0, |all, attribute| all | attribute.bit().0) == 0
    }

    fn includes(self, attribute: Attribute) -> bool {
        self.0 & attribute.bit().0 != 0
    }
}

/// An attribute of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Agent,
    Server,
    Namespace,
    Scope,
    AgentName,
    ServerName,
    ToolName,
    Objective,
    PrincipalGroups,
    DelegationDepth,
    Classification,
    Domain,
    CrossDomain,
    History,
    Arguments,
    SubjectProperties,
    ResourceProperties,
    Intent,
    OnBehalfOf,
    ResourceId,
}

impl Attribute {
    const ALL: [(Self, &str); 20] = [
        (Self::Agent, "agent"),
        (Self::Server, "server"),
        (Self::Namespace, "namespace"),
        (Self::Scope, "scope"),
        (Self::AgentName, "agentName"),
        (Self::ServerName, "serverName"),
        (Self::ToolName, "toolName"),
        (Self::Objective, "objective"),
        (Self::PrincipalGroups, "principalGroups"),
        (Self::DelegationDepth, "delegationDepth"),
        (Self::Classification, "classification"),
        (Self::Domain, "domain"),
        (Self::CrossDomain, "crossDomain"),
        (Self::History, "history"),
        (Self::Arguments, "arguments"),
        (Self::SubjectProperties, "subjectProperties"),
        (Self::ResourceProperties, "resourceProperties"),
        (Self::Intent, "intent"),
        (Self::OnBehalfOf, "onBehalfOf"),
        (Self::ResourceId, "resourceId"),
    ];

    const fn bit(self) -> Looks {
        Looks(1 << self as u32)
    }
}

/// `context.name`.
#[must_use]
pub fn context(name: &str) -> Node {
    attribute(Arc::new(Expr::Var(Var::Context)), name)
}

/// `of.name`.
#[must_use]
pub fn attribute(of: Node, name: &str) -> Node {
    Arc::new(Expr::GetAttr { expr: of, attr: SmolStr::from(name) })
}

/// `context has name`.
#[must_use]
pub fn has(name: &str) -> Node {
    Arc::new(Expr::HasAttr { expr: Arc::new(Expr::Var(Var::Context)), attrs: one(SmolStr::from(name)) })
}

fn one<T>(item: T) -> cedar_policy::pst::NonEmpty<T> {
    cedar_policy::pst::NonEmpty::new(item)
}

/// The tool.
#[must_use]
pub fn resource() -> Node {
    Arc::new(Expr::Var(Var::Resource))
}

/// A number.
#[must_use]
pub fn long(number: i64) -> Node {
    Arc::new(Expr::Literal(Literal::Long(number)))
}

/// A text.
#[must_use]
pub fn text(text: &str) -> Node {
    Arc::new(Expr::Literal(Literal::String(SmolStr::from(text))))
}

/// A boolean.
#[must_use]
pub fn flag(flag: bool) -> Node {
    Arc::new(Expr::Literal(Literal::Bool(flag)))
}

/// An entity.
#[must_use]
pub fn entity(kind: Kind, id: &str) -> Node {
    Arc::new(Expr::Literal(Literal::EntityUID(kind.in_tree(id))))
}

/// A set of texts.
#[must_use]
pub fn texts<'a>(list: impl IntoIterator<Item = &'a str>) -> Node {
    Arc::new(Expr::Set(list.into_iter().map(text).collect()))
}

/// Two expressions and what is between them.
#[must_use]
pub fn binary(op: BinaryOp, left: Node, right: Node) -> Node {
    Arc::new(Expr::BinaryOp { op, left, right })
}

/// Any of these; false where there is none.
#[must_use]
pub fn any(nodes: Vec<Node>) -> Node {
    nodes.into_iter().reduce(|left, right| binary(BinaryOp::Or, left, right)).unwrap_or_else(|| flag(false))
}

/// All of these; true where there is none.
#[must_use]
pub fn all(nodes: Vec<Node>) -> Node {
    nodes.into_iter().reduce(|left, right| binary(BinaryOp::And, left, right)).unwrap_or_else(|| flag(true))
}

/// `if condition then yes else no`.
#[must_use]
pub fn either(condition: Node, yes: Node, no: Node) -> Node {
    Arc::new(Expr::IfThenElse { cond: condition, then_expr: yes, else_expr: no })
}

/// Whether a text matches one of some patterns.
#[must_use]
pub fn like_any(node: &Node, patterns: &[Pattern]) -> Node {
    let like = |pattern: &Pattern| match pattern.exact() {
        Some(exact) => binary(BinaryOp::Eq, node.clone(), text(exact)),
        None => {
            let element = |c| if c == '*' { PatternElem::Wildcard } else { PatternElem::Char(c) };
            Arc::new(Expr::Like { expr: node.clone(), pattern: pattern.as_str().chars().map(element).collect() })
        }
    };
    any(patterns.iter().map(like).collect())
}

/// Where a value is held: `context.arguments.numbers` and its like.
#[must_use]
pub fn holder(of: &str, kind: &str) -> Node {
    attribute(context(of), kind)
}

/// `holder.hasTag(name)`.
#[must_use]
pub fn has_tag(holder: &Node, name: &str) -> Node {
    binary(BinaryOp::HasTag, holder.clone(), text(name))
}

/// `holder.getTag(name)`.
#[must_use]
pub fn tag(holder: &Node, name: &str) -> Node {
    binary(BinaryOp::GetTag, holder.clone(), text(name))
}

/// An amount as the schema counts it.
#[must_use]
pub fn amount(amount: Amount) -> Node {
    long(amount.ten_thousandths())
}

/// What an action looks like to the policies.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// `namespace/name` of the task.
    pub task: &'a str,
    /// `namespace/name` of its agent.
    pub agent: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Name of its scope.
    pub scope: &'a str,
    /// Name of the agent.
    pub agent_name: &'a str,
    /// Name of the server.
    pub server_name: &'a str,
    /// Name of the tool.
    pub tool_name: &'a str,
    /// What it is to reach.
    pub objective: &'a str,
    /// What the agent says this is for.
    pub intent: Option<&'a str>,
    /// Whom it acts for.
    pub on_behalf_of: Option<&'a str>,
    /// Their groups.
    pub groups: &'a [String],
    /// Depth of delegation.
    pub depth: u32,
    /// `namespace/server/tool`.
    pub tool: EntityUid,
    /// `namespace/server`.
    pub server: EntityUid,
    /// What the tool does.
    pub effect: Effect,
    /// Id of the resource.
    pub resource: Option<&'a str>,
    /// Rank of the data.
    pub classification: i64,
    /// Where its data goes.
    pub domain: &'a str,
    /// Whether that is elsewhere.
    pub cross_domain: bool,
    /// Rank of the highest data read, -1 where none was.
    pub highest_read: i64,
    /// Whether outside content was taken in.
    pub untrusted: bool,
    /// Domains touched.
    pub domains: Vec<&'a str>,
}

impl Facts<'_> {
    /// The request, with what is looked at.
    ///
    /// # Errors
    /// Cedar's words; the caller denies.
    pub fn request(&self, looks: Looks) -> Result<Request, String> {
        let mut pairs = Vec::with_capacity(Attribute::ALL.len());
        for (attribute, name) in Attribute::ALL.into_iter().filter(|(attribute, _)| looks.includes(*attribute)) {
            if let Some(value) = self.value(attribute)? {
                pairs.push((name.to_owned(), value));
            }
        }
        let context = Context::from_pairs(pairs).map_err(|error| error.to_string())?;
        // Without the schema: what is built here is the schema's shape, and a test holds it to that.
        Request::new(Kind::Task.uid(self.task), Kind::Action.uid(self.effect.as_str()), self.tool.clone(), context, None)
            .map_err(|error| error.to_string())
    }

    /// The value of an attribute, where it has one.
    fn value(&self, attribute: Attribute) -> Result<Option<RestrictedExpression>, String> {
        let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let [arguments, subject, resource] = &*HOLDERS;
        Ok(Some(match attribute {
            Attribute::Agent => RestrictedExpression::new_entity_uid(Kind::Agent.uid(self.agent)),
            Attribute::Server => RestrictedExpression::new_entity_uid(self.server.clone()),
            Attribute::Namespace => string(self.namespace),
            Attribute::Scope => string(self.scope),
            Attribute::AgentName => string(self.agent_name),
            Attribute::ServerName => string(self.server_name),
            Attribute::ToolName => string(self.tool_name),
            Attribute::Objective => string(self.objective),
            Attribute::PrincipalGroups => RestrictedExpression::new_set(self.groups.iter().map(|group| string(group))),
            Attribute::DelegationDepth => RestrictedExpression::new_long(i64::from(self.depth)),
            Attribute::Classification => RestrictedExpression::new_long(self.classification),
            Attribute::Domain => string(self.domain),
            Attribute::CrossDomain => RestrictedExpression::new_bool(self.cross_domain),
            Attribute::History => self.history()?,
            Attribute::Arguments => arguments.clone(),
            Attribute::SubjectProperties => subject.clone(),
            Attribute::ResourceProperties => resource.clone(),
            Attribute::Intent => return Ok(self.intent.map(string)),
            Attribute::OnBehalfOf => return Ok(self.on_behalf_of.map(string)),
            Attribute::ResourceId => return Ok(self.resource.map(string)),
        }))
    }

    fn history(&self) -> Result<RestrictedExpression, String> {
        let domains = self.domains.iter().map(|domain| RestrictedExpression::new_string((*domain).to_owned()));
        let fields = [
            ("highestRead", RestrictedExpression::new_long(self.highest_read)),
            ("untrusted", RestrictedExpression::new_bool(self.untrusted)),
            ("domains", RestrictedExpression::new_set(domains)),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        RestrictedExpression::new_record(fields).map_err(|error| error.to_string())
    }
}

/// Names of the holders of values, by what they are of.
const OF: [&str; 3] = ["arguments", "subjectProperties", "resourceProperties"];
const HELD: [(&str, Kind); 4] =
    [("texts", Kind::Texts), ("numbers", Kind::Numbers), ("flags", Kind::Flags), ("lists", Kind::Lists)];

static HOLDERS: LazyLock<[RestrictedExpression; 3]> = LazyLock::new(|| {
    OF.map(|of| {
        let fields = HELD.map(|(name, kind)| (name.to_owned(), RestrictedExpression::new_entity_uid(kind.uid(of))));
        RestrictedExpression::new_record(fields).expect("the names differ")
    })
});

/// The holders with the values of one action: arguments, and what the enforcement point says of
/// subject and resource. One that would hold nothing is left out: `hasTag` says no to both, and no
/// policy that was validated asks for a tag before it.
///
/// # Errors
/// Cedar's words; the caller denies.
pub fn entities(arguments: &Values, subject: &Values, resource: &Values) -> Result<Entities, String> {
    let mut all = vec![];
    for (of, values) in OF.into_iter().zip([arguments, subject, resource]) {
        let Values { texts, numbers, flags, lists } = values;
        let string = |text: &String| RestrictedExpression::new_string(text.clone());
        let texts: Vec<_> = texts.iter().map(|(name, text)| (name.clone(), string(text))).collect();
        let numbers: Vec<_> = numbers
            .iter()
            .map(|(name, amount)| (name.clone(), RestrictedExpression::new_long(amount.ten_thousandths())))
            .collect();
        let flags: Vec<_> = flags.iter().map(|(name, flag)| (name.clone(), RestrictedExpression::new_bool(*flag))).collect();
        let lists: Vec<_> =
            lists.iter().map(|(name, list)| (name.clone(), RestrictedExpression::new_set(list.iter().map(string)))).collect();
        for ((_, kind), tags) in HELD.into_iter().zip([texts, numbers, flags, lists]).filter(|(_, tags)| !tags.is_empty()) {
            all.push(Entity::new_with_tags(kind.uid(of), [], [], tags).map_err(|error| error.to_string())?);
        }
    }
    Entities::from_entities(all, None).map_err(|error| error.to_string())
}

/// The id by which a policy was compiled.
#[must_use]
pub fn id(policy: &PolicyId) -> &str {
    policy.as_ref()
}
