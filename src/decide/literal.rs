//! Credentials by their form: what a text looks like when it is a key, a token or a password of
//! something that many people use.
//!
//! Each form is a prefix that its issuer chose, an alphabet and a length, or the place that a
//! credential has in a URL, a header or a file of keys. No entropy is measured: a text that only
//! looks random is none of them. The patterns are read by the `regex` crate here and as RE2 by
//! the API server, so they keep to what both read alike: no `\b`, `\d`, `\s` and `\w`, which mean
//! Unicode here and ASCII there, and nothing that looks around.
//!
//! What matches is never repeated, in no message and no log.

use std::sync::LazyLock;

use regex::Regex;

/// One form that credentials have.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Whose it is.
    pub name: &'static str,
    /// What it looks like, as RE2.
    pub pattern: &'static str,
}

macro_rules! formats {
    (
        at the start of a word: { $first_name:literal: $first:literal, $($word_name:literal: $word:literal,)* }
        anywhere, beginning with a sign: { $first_sign_name:literal: $first_sign:literal, $($sign_name:literal: $sign:literal,)* }
    ) => {
        /// Every form.
        pub const FORMATS: &[Format] = &[
            Format { name: $first_name, pattern: concat!("(?:^|[^0-9A-Za-z])(?:", $first, ")") },
            $(Format { name: $word_name, pattern: concat!("(?:^|[^0-9A-Za-z])(?:", $word, ")") },)*
            Format { name: $first_sign_name, pattern: $first_sign },
            $(Format { name: $sign_name, pattern: $sign },)*
        ];

        /// A text with a credential of any form in it, for those who can only ask a pattern.
        pub const KNOWN: &str = concat!("(?:^|[^0-9A-Za-z])(?:", $first, $("|", $word,)* ")|", $first_sign $(, "|", $sign)*);

        /// A text that begins with a credential of a form that stands at the start of a word.
        const WORD: &str = concat!("^(?:", $first, $("|", $word,)* ")");

        /// A text that begins with a credential of one of the other forms.
        const SIGN: &str = concat!("^(?:", $first_sign, $("|", $sign,)* ")");
    };
}

formats! {
    at the start of a word: {
        "1Password service account token": "ops_eyJ[0-9A-Za-z+/]{200,}",
        "age key": "AGE-SECRET-KEY-1[0-9A-Z]{58}",
        "Airtable token": "pat[0-9A-Za-z]{14}\\.[0-9a-f]{64}",
        "Aiven password": "AVNS_[0-9A-Za-z_-]{19}",
        "Alibaba Cloud access key": "LTAI[0-9A-Za-z]{20}(?:[^0-9A-Za-z]|$)",
        "Atlassian token": "ATATT3[0-9A-Za-z_-]{100,}",
        "authorization header": "[Aa]uthorization: ?(?:[Bb]earer|[Bb]asic|[Tt]oken) +[0-9A-Za-z+/._~=-]{8,}",
        // Not the keys of AWS's own documentation, which end in EXAMPLE.
        "AWS access key": "(?:AKIA|ASIA|ABIA|ACCA)[2-7A-Z]{9}(?:[2-7A-DF-Z][2-7A-Z]{6}|E(?:[2-7A-WYZ][2-7A-Z]{5}|X(?:[2-7B-Z][2-7A-Z]{4}|A(?:[2-7A-LN-Z][2-7A-Z]{3}|M(?:[2-7A-OQ-Z][2-7A-Z]{2}|P(?:[2-7A-KM-Z][2-7A-Z]|L[2-7A-DF-Z]))))))(?:[^0-9A-Za-z]|$)",
        "AWS Bedrock API key": "ABSK[0-9A-Za-z+/]{100,}",
        "Azure AD client secret": "[0-9A-Za-z][0-9A-Za-z_~.-]{2}[0-9]Q~[0-9A-Za-z_~.-]{31,34}",
        "Azure DevOps token": "[0-9A-Za-z]{76}AZDO[0-9A-Za-z]{4}",
        "Azure storage or bus key": "(?:AccountKey|SharedAccessKey)=[0-9A-Za-z+/]{40,}",
        "Brevo API key": "xkeysib-[0-9a-f]{64}",
        "Buildkite token": "bkua_[0-9a-f]{40}",
        "CircleCI token": "CCIPAT_[0-9A-Za-z]{22}_[0-9a-f]{40}",
        "Cloudflare origin CA key": "v1\\.0-[0-9a-f]{24}-[0-9a-f]{146}",
        "connection string of libpq": "(?:host|user|dbname)=[^ ]{1,64} (?:[a-z_]{1,32}=[^ ]{1,64} ){0,8}password=[^$<{%*\"' \\t\\r\\n]{3,128}(?:[\"' \\t\\r\\n]|$)",
        "connection string of Oracle": "jdbc:oracle:thin:[^/@ ]{1,64}/[^/@ $<{]{3,128}@",
        "crates.io token": "cio[0-9A-Za-z]{32}(?:[^0-9A-Za-z]|$)",
        "Databricks token": "dapi[0-9a-f]{32}(?:[^0-9A-Za-z]|$)",
        "DigitalOcean token": "do[opr]_v1_[0-9a-f]{64}",
        "Discord bot token": "[MNO][0-9A-Za-z_-]{23,25}\\.[0-9A-Za-z_-]{6}\\.[0-9A-Za-z_-]{27,38}(?:[^0-9A-Za-z_.-]|$)",
        "Discord webhook": "discord(?:app)?\\.com/api/webhooks/[0-9]{17,20}/[0-9A-Za-z_-]{60,}",
        "Docker Hub token": "dckr_[op]at_[0-9A-Za-z_-]{27,}",
        "Doppler token": "dp\\.(?:pt|st|ct|sa|scim|audit)\\.(?:[0-9a-z_-]{2,35}\\.)?[0-9A-Za-z]{40,}",
        "Dynatrace token": "dt0[a-z][0-9]{2}\\.[0-9A-Z]{24}\\.[0-9A-Z]{64}",
        "ElevenLabs API key": "sk_[0-9a-f]{48}(?:[^0-9A-Za-z]|$)",
        "Figma token": "figd_[0-9A-Za-z_-]{40}",
        "Firecrawl API key": "fc-[0-9a-f]{32}(?:[^0-9A-Za-z]|$)",
        "Fly.io token": "(?:fo1_[0-9A-Za-z_-]{43}|fm[12][ar]?_[0-9A-Za-z+/]{100,})",
        "GitHub token": "gh[oprsu]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{82}",
        "GitLab token": "gl(?:agent|cbt|dt|ffct|ft|imt|oas|pat|ptt|rt|soat)-[0-9A-Za-z_-]{20}",
        "Google API key or client secret": "AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{28}|ya29\\.[0-9A-Za-z_-]{40,}",
        "Grafana token": "glsa_[0-9A-Za-z]{32}_[0-9A-Fa-f]{8}|glc_eyJ[0-9A-Za-z+/]{40,}",
        "Groq API key": "gsk_[0-9A-Za-z]{52}",
        "Heroku API key": "HRKU-AA[0-9A-Za-z_-]{58}",
        "Hugging Face token": "(?:hf_|api_org_)[A-Za-z]{34}",
        "JFrog token": "(?:AKCp[0-9A-Za-z]{69}|cmVmd[0-9A-Za-z]{59})",
        "join token of a node": "token[ =:\"']+[0-9a-z]{6}\\.[0-9a-z]{16}(?:[^0-9A-Za-z.]|$)",
        // The two objects it begins with are enough, whatever it is signed with.
        "JSON web token": "eyJ[0-9A-Za-z_-]{13,300}\\.eyJ[0-9A-Za-z_-]{10}",
        "LangSmith API key": "lsv2_[a-z]{2}_[0-9a-f]{32}_[0-9a-f]{10}",
        "Linear API key": "lin_api_[0-9A-Za-z]{40}",
        "Mailchimp API key": "[0-9a-f]{32}-us[0-9]{1,2}(?:[^0-9A-Za-z-]|$)",
        "Netlify token": "nfp_[0-9A-Za-z]{36}",
        "New Relic key": "NRAK-[0-9A-Z]{27}",
        "Notion token": "ntn_[0-9]{11}[0-9A-Za-z]{35}",
        "npm token": "npm_[0-9A-Za-z]{36}",
        "NuGet API key": "oy2[0-9a-z]{43}(?:[^0-9A-Za-z]|$)",
        "OpenAI, Anthropic, OpenRouter, Langfuse or DeepSeek API key": "sk-(?:(?:proj|svcacct|admin|ant|or|lf)-[0-9A-Za-z_-]{36,}|[0-9A-Za-z]{32,64}(?:[^0-9A-Za-z]|$))",
        "OpenShift token": "sha256~[0-9A-Za-z_-]{43}",
        "Perplexity API key": "pplx-[0-9A-Za-z]{48}",
        "Pinecone API key": "pcsk_[0-9A-Za-z_]{60,}",
        "PlanetScale token": "pscale_(?:tkn|oauth|pw)_[0-9A-Za-z_-]{32,}",
        "Postman API key": "PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
        // The first bytes of the same, for a private key and one of RSA, EC or OpenSSH.
        "private key in base64": "LS0tLS1CRUdJTiB(?:QUklWQVRFIEtFW|SU0EgUFJJVkFURSBLRV|FQyBQUklWQVRFIEtFW|PUEVOU1NIIFBSSVZBVEUgS0VZ)",
        "Pulumi token": "pul-[0-9a-f]{40}",
        "PuTTY key": "PuTTY-User-Key-File-[23]: ",
        "PyPI token": "pypi-AgE[0-9A-Za-z_-]{50,}",
        "Replicate token": "r8_[0-9A-Za-z]{37}",
        "RubyGems API key": "rubygems_[0-9a-f]{48}",
        "SendGrid API key": "SG\\.[0-9A-Za-z_-]{22}\\.[0-9A-Za-z_-]{43}",
        "Sentry token": "sntrys_eyJ[0-9A-Za-z+/]{40,}|sntryu_[0-9a-f]{64}",
        "Shopify token": "shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}",
        "Slack token": "xox[abeoprs](?:-[0-9]+)+-[0-9A-Za-z]{16,}|xapp-[0-9]-[0-9A-Z]{8,}-[0-9]{8,}-[0-9a-f]{32,}",
        // Not the one of Slack's own documentation, which ends in nothing but X.
        "Slack webhook": "hooks\\.slack\\.com/(?:services|workflows|triggers)/T[0-9A-Z]{8,}/[0-9A-Z]{8,}/[0-9A-Za-z/]{0,40}[0-9A-WYZa-z]",
        "SonarQube token": "sq[apu]_[0-9a-f]{40}",
        "Square token": "sq0(?:atp|csp)-[0-9A-Za-z_-]{22,}",
        "Stripe key": "(?:[rs]k_(?:live|test|prod)_[0-9A-Za-z]{16,}|whsec_[0-9A-Za-z]{32})",
        "Supabase token": "sbp_[0-9a-f]{40}|sb_secret_[0-9A-Za-z_-]{30,}",
        "Tailscale key": "tskey-[a-z]+-[0-9A-Za-z]+-[0-9A-Za-z]{16,}",
        "Tavily API key": "tvly-(?:dev-|prod-)?[0-9A-Za-z]{32}",
        "Teams webhook": "webhook\\.office\\.com/webhookb2/[0-9a-f-]{36}@",
        "Telegram bot token": "[0-9]{8,10}:AA[0-9A-Za-z_-]{33}(?:[^0-9A-Za-z_-]|$)",
        "Terraform Cloud token": "[0-9A-Za-z]{14}\\.atlasv1\\.[0-9A-Za-z_-]{60,}",
        "Twilio API key": "SK[0-9a-f]{32}(?:[^0-9A-Za-z]|$)",
        "Vault token": "hv[bsr]\\.[0-9A-Za-z_-]{24,}",
        "xAI API key": "xai-[0-9A-Za-z]{80}",
    }
    anywhere, beginning with a sign: {
        "Azure shared access signature": "[?&]sig=(?:[0-9A-Za-z+/]|%2[BbFf]){43}(?:=|%3[Dd])",
        // Not what is filled in later, as `$(DB_PASSWORD)` or `<password>`.
        "connection string": "[;?&](?i:password|pwd)=[^;&$<{%*\"' \\t\\r\\n]{3,128}(?:[;&\"' \\t\\r\\n]|$)",
        "Docker registry login": "\"auth\": ?\"[0-9A-Za-z+/]{12,}={0,2}\"",
        // With what follows the first line: scripts that only look for one pass.
        "private key": "-----BEGIN [0-9A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[^-]{32}",
        // A name may be missing. Not what is filled in later, as above.
        "URL with a password": "://[^/:@?# \\t\\r\\n\"'$<>{}]*:[^/@?# \\t\\r\\n\"'$<>{}()*]{3,}@",
        "URL with a token": "[?&](?:access_token|api_?key|auth_token|token)=[0-9A-Za-z_-]{16,}",
    }
}

/// What every text with a credential of a [`KNOWN`] form has. Most texts of a pod do not have it
/// and are done with at a small part of the cost, which in the API server is counted by the
/// length of the pattern.
pub const MARK: &str = "[0-9A-Za-z_~-]{16}|[0-9A-Za-z+/]{40}|://[^/@]*:[^/]*@|oracle:thin:|(?i:password|pwd)=|PRIVATE KEY|\"auth\": ?\"|uthorization:|[?&]sig=|hooks\\.slack|[0-9]Q~";

/// What every text with a credential of a [`KNOWN`] form also has: a few letters of its form. In
/// the API server it is asked after [`MARK`], which many texts have that are only long.
pub const HINT: &str = concat!(
    "(?:^|[^0-9A-Za-z])(?:sk[-_]|SK[0-9a-f]{8}|pat[0-9A-Za-z]{14}\\.|[MNO][0-9A-Za-z_-]{23,25}\\.|dapi|cio|oy2|fc-|LTAI|A(?:KI|SI|BI|CC)A|ABSK)",
    "|-us[0-9]|(?i:password|pwd)=|://[^/@]*:[^/]*@|oracle:thin:|token[ =:\"']+[0-9a-z]{6}\\.|[?&][a-z_]*(?:key|token|sig)=",
    "|AVNS_|[0-9]Q~|v1\\.0-|fo1_|fm[12]|gsk_|hf_|api_org_|AKCp|cmVmd|NRAK-|ntn_|pplx-|pul-|r8_|sq[apu0]|_(?:live|test|prod)_|whsec_|:AA|atlasv1|hv[bsr]\\.|xai-",
    "|ops_eyJ|AGE-SECRET|ATATT3|uthorization:|(?:Account|Access)Key=|AZDO|xkeysib|bkua_|CCIPAT|do[opr]_v1|api/webhooks|dckr_|\"auth\"|dp\\.[a-z]+\\.|dt0[a-z]|figd_",
    "|gh[oprsu]_|github_pat|gl[a-z]+-|AIza|GOCSPX|ya29|glsa_|glc_|HRKU|eyJ|lsv2_|lin_api|nfp_|npm_|sha256~|pcsk_|pscale_|PMAK|PRIVATE KEY|PuTTY|LS0tLS1CRUdJTiB",
    "|pypi-|rubygems_|SG\\.|sntry|shp[acpst]{2}_|xox|xapp|hooks\\.slack|sbp_|sb_secret|tskey|tvly|webhookb2",
);

/// The value of a header that hands over a credential whatever the header is called.
pub const HEADER: &str = "^(?i:bearer|basic|token|apikey) +[^$<{ ]{8,}$";

/// What the forms that stand at no start of a word begin with.
const SIGNS: &[u8] = b"?&;\"-:";

/// Whether a text has a credential of a known form in it: the same as [`KNOWN`], asked at every
/// place where one could begin. One look for all of them at once has too many states to keep for
/// texts that were made to have them, and would stay slow for those that come after.
#[must_use]
pub fn is_known(text: &str) -> bool {
    static PATTERNS: LazyLock<[Regex; 3]> =
        LazyLock::new(|| [MARK, WORD, SIGN].map(|pattern| Regex::new(pattern).expect("all are patterns, which a test shows")));
    if !may_have_mark(text.as_bytes()) || is_digest(text) {
        return false;
    }
    let [mark, word, sign] = &*PATTERNS;
    if !mark.is_match(text) {
        return false;
    }
    let mut in_word = false;
    text.bytes().enumerate().any(|(at, byte)| {
        let (was_in_word, is_in_word) = (in_word, byte.is_ascii_alphanumeric());
        in_word = is_in_word;
        let pattern = match (is_in_word && !was_in_word, SIGNS.contains(&byte)) {
            (true, _) => word,
            (_, true) => sign,
            _ => return false,
        };
        // INVARIANT: an ASCII character stands at `at`, so a character begins there.
        text.get(at..).is_some_and(|rest| pattern.is_match(rest))
    })
}

/// Whether a text can have a [`MARK`], told by one look at its bytes: a word as long as its parts
/// have them, a sign that all others have one of, or the middle of one that has none. Most texts
/// are names and sentences, which have neither.
fn may_have_mark(text: &[u8]) -> bool {
    const NAME: u8 = 1;
    const BASE64: u8 = 2;
    const SIGN: u8 = 4;
    const fn of(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => NAME | BASE64,
            b'_' | b'-' => NAME,
            b'+' | b'/' => BASE64,
            b':' | b'=' | b'"' | b'~' => SIGN,
            _ => 0,
        }
    }
    const CLASSES: [u8; 256] = {
        let mut classes = [0; 256];
        let mut at = 0;
        while at < classes.len() {
            classes[at] = of(at as u8);
            at += 1;
        }
        classes
    };
    let (mut name, mut base64, mut last) = (0, 0, 0);
    text.iter().any(|&byte| {
        let class = CLASSES[usize::from(byte)];
        name = if class & NAME == 0 { 0 } else { name + 1 };
        base64 = if class & BASE64 == 0 { 0 } else { base64 + 1 };
        // `PRIVATE KEY` and `hooks.slack` are the only ones without a sign.
        let is_middle = (last, byte) == (b' ', b'K') || (last, byte) == (b'.', b's');
        last = byte;
        name >= 16 || base64 >= 40 || is_middle || class & SIGN != 0
    })
}

/// Whether a text is a digest, a UUID or a UUID and a number after a slash, as many texts are that
/// have a [`MARK`]. No form is made of their signs alone but one, which begins with `fc-`.
fn is_digest(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-' | b'/')) && !digits.contains("fc-")
}

#[cfg(test)]
mod tests {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    use proptest::test_runner::TestRunner;

    use super::*;

    /// Texts of one form, without what may stand before and after.
    fn examples(format: &Format) -> Vec<String> {
        let edges = Regex::new(r"\(\?:\[[^\]]*\]\|\$\)|\(\?:\^\|\[\^0-9A-Za-z\]\)").unwrap();
        let bare = edges.replace_all(format.pattern, "");
        let texts = proptest::string::string_regex(&bare).unwrap_or_else(|error| panic!("{}: {error}", format.name));
        let mut runner = TestRunner::deterministic();
        std::iter::repeat_with(|| texts.new_tree(&mut runner).unwrap().current()).take(40).collect()
    }

    #[test]
    fn every_form_is_known_alone_and_among_other_words() {
        for format in FORMATS {
            for text in examples(format) {
                assert!(is_known(&text), "{} is not known alone", format.name);
                assert!(is_known(&format!("run --with {text} --more")), "{} is not known among other words", format.name);
            }
        }
    }

    #[test]
    fn the_pattern_of_all_says_the_same() {
        let all = Regex::new(KNOWN).unwrap();
        let pieces: Vec<String> = FORMATS.iter().flat_map(|format| examples(format).into_iter().take(2)).collect();
        let mut runner = TestRunner::deterministic();
        let cuts = (0..pieces.len(), 0..pieces.len(), 0..80_usize, 0..80_usize, "[ -~é]{0,3}", 0..3_u8);
        for _ in 0..4000 {
            let (one, other, from, to, between, whole) = cuts.new_tree(&mut runner).unwrap().current();
            let part = |text: &str| {
                text.chars()
                    .skip(if whole == 0 { 0 } else { from % 8 })
                    .take(if whole == 1 { usize::MAX } else { to })
                    .collect::<String>()
            };
            let text = format!("{between}{}{between}{}", part(&pieces[one]), part(&pieces[other]));
            assert_eq!(is_known(&text), all.is_match(&text), "{} and {} letters", text.len(), between.len());
        }
    }

    #[test]
    fn every_form_has_its_hint() {
        let hint = Regex::new(HINT).unwrap();
        for format in FORMATS {
            assert!(examples(format).iter().all(|text| hint.is_match(text)), "{} has no hint", format.name);
        }
    }

    #[test]
    fn one_form_alone_could_be_taken_for_a_digest() {
        let like = |text: &String| {
            text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || b"-/".contains(&byte))
        };
        let alike: Vec<_> = FORMATS.iter().filter(|format| examples(format).iter().any(like)).map(|format| format.name).collect();
        assert_eq!(alike, ["Firecrawl API key"]);
        for text in [format!("fc-{}", "0123456789abcdef".repeat(2)), format!("sha256:fc-{}", "a".repeat(32))] {
            assert!(is_known(&text), "{text}");
        }
        assert!(!is_known(&format!("sha256:{}", "0123456789abcdef".repeat(4))));
    }

    #[test]
    fn patterns_keep_to_what_go_reads_alike() {
        for pattern in FORMATS.iter().map(|format| format.pattern).chain([MARK, HINT, HEADER]) {
            let escapes = pattern.split('\\').skip(1).filter_map(|rest| rest.chars().next());
            assert!(escapes.clone().all(|escaped| ".trn".contains(escaped)), "{pattern} escapes more than it may");
            assert!(!["(?=", "(?!", "(?<", "(?P"].iter().any(|look| pattern.contains(look)), "{pattern} looks around");
        }
    }

    #[test]
    fn what_only_looks_alike_is_not_known() {
        for text in [
            "",
            "true",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "registry.example.com/finance/agent@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
            "c53bb1d4f0a6e3a1f8a2a5c2f53ed2b1d6f28a2c5a86d01e2c9d9b4ef4b0f4d2",
            "b5a2ec5d-5a6f-4d2f-8c0e-3d6f0c1f9a77",
            "postgres://app:$(DB_PASSWORD)@db:5432/app",
            "postgres://app:${DB_PASSWORD}@db:5432/app",
            "postgres://app:<password>@db:5432/app",
            "postgres://app:{{ .Values.password }}@db:5432/app",
            "postgres://app@db:5432/app",
            "mongodb://a:27017,b:27017,c:27017/db?replicaSet=rs0",
            "smtp://mail.example.com:587?from=robot@example.com",
            "https://example.com:8443/@scope/package",
            "http://[::1]:8080/@me",
            "ssh://git@github.com:22/org/repo.git",
            "https://0123456789abcdef0123456789abcdef@sentry.example.com/4",
            "host=db user=app password=$(DB_PASSWORD) dbname=app",
            "Server=db;Database=app;User Id=app;Password=${PASSWORD};",
            "jdbc:postgresql://db:5432/app?user=app&password=$(DB_PASSWORD)",
            "AKIAIOSFODNN7EXAMPLE",
            "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
            "grep -q -- '-----BEGIN PRIVATE KEY-----' tls.key && openssl rsa -in tls.key -check -noout",
            "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUJ0\n-----END CERTIFICATE-----",
            "Authorization: Bearer $(TOKEN)",
            "curl -H \"Authorization: Bearer ${TOKEN}\" https://example.com",
            "Basic authentication-of-requests is on",
            "arn:aws:iam::123456789012:role/invoice-agent",
            "projects/finance/locations/europe-west1/keyRings/agents/cryptoKeys/ledger",
            "task-queue-worker-sk-learn-0123456789",
            "spring.jpa.properties.hibernate.jdbc.lob.non_contextual_creation",
            "--set=server.maxheaderbytesx=1",
            "sk-estonia-tallinn-prod-cluster-with-a-long-name",
            "nginx-ingress-controller-0123456789abcdef0123456789abcdef-us-east-1",
        ] {
            assert!(!is_known(text), "{text}");
        }
    }

    #[test]
    fn a_part_of_something_longer_is_not_known() {
        for text in
            ["xAKIA2222222222222222", "AKIA22222222222222222222", "0123456789:AAx", "dapi0123456789abcdef0123456789abcdef0"]
        {
            assert!(!is_known(text), "{text}");
        }
    }
}
