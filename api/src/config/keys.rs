//! The keys of the configuration, as data: what each may hold and what to do if it does not.
//!
//! Invariant: [`KEYS`] names exactly the fields of [`super::Config`]; a test holds them together.
//! Left out: defaults and reasons, which stand at the fields.

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What it may hold.
    pub shape: Shape,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text; `true` if it may not be empty.
    Text(bool),
    /// One word of `[a-z0-9._-]`, 1-63 characters.
    Word,
    /// The same, or empty.
    Name,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `http://host:port` or `https://host:port`, or empty.
    Url,
    /// A list of URLs.
    Urls,
    /// `ip:port`, or empty.
    Server,
    /// A path of keys: begins with `/`, does not end with it.
    Prefix,
    /// A filter for logs.
    Filter,
    /// `ip:port` to listen on.
    Listen,
    /// `host:port`, or empty.
    Endpoint,
    /// A list of `host:port`.
    Endpoints,
    /// A list of `host:port=host:port`.
    Translations,
    /// A list of words out of these, at least one.
    Choices(&'static [&'static str]),
    /// A port.
    Port,
    /// A whole number with its unit and its smallest and largest value.
    Count(&'static str, u64, u64),
}

const fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, shape }
}

/// One terabyte in MiB: above it a size is surely given in the wrong unit.
const TERABYTE_MB: u64 = 1 << 20;
const GIGABYTE: u64 = 1 << 30;
const DAY_S: u64 = 24 * 3600;

/// All keys, in the order of the sections.
pub const KEYS: &[Key] = &[
    key("node.name", Shape::Word),
    key("node.region", Shape::Word),
    key("node.zone", Shape::Word),
    key("node.data", Shape::Text(true)),
    key("node.roles", Shape::Choices(&["replica", "relay"])),
    key("http.listen", Shape::Listen),
    key("http.anonymous", Shape::Flag),
    key("replication.listen", Shape::Listen),
    key("replication.advertise", Shape::Endpoint),
    key("replication.seeds", Shape::Endpoints),
    key("replication.translate", Shape::Translations),
    key("replication.certificates", Shape::Text(false)),
    key("replication.authority", Shape::Text(false)),
    key("cluster.founder", Shape::Name),
    key("cluster.replicas", Shape::Count("replicas", 1, 16)),
    key("cluster.slots", Shape::Count("slots", 1, 4096)),
    key("cluster.replace_after_s", Shape::Count("seconds", 1, DAY_S)),
    key("cluster.forget_after_s", Shape::Count("seconds", 1, 30 * DAY_S)),
    key("cluster.leave_on_stop", Shape::Flag),
    key("cluster.drain_s", Shape::Count("seconds", 0, DAY_S)),
    key("cluster.moves", Shape::Count("moves", 1, 1024)),
    key("discovery.method", Shape::Choice(&["static", "dns", "kubernetes", "etcd"])),
    key("discovery.dns_name", Shape::Text(false)),
    key("discovery.dns_srv", Shape::Flag),
    key("discovery.dns_server", Shape::Server),
    key("discovery.port", Shape::Port),
    key("discovery.interval_s", Shape::Count("seconds", 1, 3600)),
    key("discovery.kubernetes_api", Shape::Url),
    key("discovery.kubernetes_namespace", Shape::Text(false)),
    key("discovery.kubernetes_selector", Shape::Text(false)),
    key("discovery.kubernetes_config_map", Shape::Word),
    key("discovery.kubernetes_token", Shape::Text(false)),
    key("discovery.kubernetes_ca", Shape::Text(false)),
    key("discovery.etcd_endpoints", Shape::Urls),
    key("discovery.etcd_prefix", Shape::Prefix),
    key("discovery.etcd_ca", Shape::Text(false)),
    key("store.cache_mb", Shape::Count("MiB", 1, TERABYTE_MB)),
    key("store.log_mb", Shape::Count("MiB", 1, TERABYTE_MB)),
    key("store.log_max_mb", Shape::Count("MiB", 1, TERABYTE_MB)),
    key("store.disk_reserve_mb", Shape::Count("MiB", 0, TERABYTE_MB)),
    key("store.checkpoint_mb", Shape::Count("MiB", 1, TERABYTE_MB)),
    key("limits.body_bytes", Shape::Count("bytes", 1024, GIGABYTE)),
    key("limits.set_members", Shape::Count("members", 1, 100_000_000)),
    key("limits.member_bytes", Shape::Count("bytes", 16, GIGABYTE)),
    key("limits.map_fields", Shape::Count("fields", 1, 10_000_000)),
    key("limits.document_bytes", Shape::Count("bytes", 1024, GIGABYTE)),
    key("limits.json_depth", Shape::Count("levels", 2, 128)),
    key("limits.batch_operations", Shape::Count("operations", 1, 100_000)),
    key("limits.subscriptions", Shape::Count("subscriptions", 0, 1_000_000)),
    key("log.level", Shape::Filter),
];

impl Key {
    /// The key of that name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The known key most like `name`, if any is near.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let score = |key: &&Key| {
            let (_, last) = key.name.split_once('.').unwrap_or(("", key.name));
            let (_, asked) = name.split_once('.').unwrap_or(("", name));
            strsim::jaro_winkler(key.name, name).max(strsim::jaro_winkler(last, asked) * 0.98)
        };
        let best = KEYS.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
        (score(&best) > 0.75).then_some(best.name)
    }
}

impl Shape {
    /// The smallest and the largest number.
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Shape::Count(_, low, high) => (*low, *high),
            _ => (1, u64::from(u16::MAX)),
        }
    }

    /// What is expected, for a message.
    pub fn expected(&self) -> String {
        match self {
            Shape::Text(true) => "text that is not empty".into(),
            Shape::Text(false) => "text".into(),
            Shape::Word => "1-63 characters of a-z, 0-9, '.', '_' and '-'".into(),
            Shape::Name => "1-63 characters of a-z, 0-9, '.', '_' and '-', or \"\"".into(),
            Shape::Flag => "true or false".into(),
            Shape::Choice(words) => format!("one of {}", words.join(", ")),
            Shape::Url => "a URL such as \"https://host:6443\", or \"\"".into(),
            Shape::Urls => "a list of URLs such as [\"http://etcd-1:2379\"]".into(),
            Shape::Server => "an address such as \"10.0.0.10:53\", or \"\" for the system's".into(),
            Shape::Prefix => "a path such as \"/atoll\"".into(),
            Shape::Port => "a port, a whole number from 1 to 65535".into(),
            Shape::Filter => "error, warn, info, debug or trace, or directives such as \
                              \"info,quinn=warn\""
                .into(),
            Shape::Listen => "an address such as \"127.0.0.1:7401\" or \"[::]:7401\"".into(),
            Shape::Endpoint => "\"host:port\", or \"\" for the listen address".into(),
            Shape::Translations => {
                "a list such as [\"10.0.1.5:7401=gateway.us.example:17401\"]".into()
            }
            Shape::Endpoints => "a list such as [\"host-a:7401\", \"host-b:7401\"]".into(),
            Shape::Choices(words) => format!("a list of one or more of {}", words.join(", ")),
            Shape::Count(unit, low, high) => {
                format!("a whole number of {unit} from {low} to {high}")
            }
        }
    }
}
