{{/*
Every call of the platform, as a JSON list of {"from": pods, "to": pods, "ports": [8000]}. Pods of this release are
"<name>/<component>", those of others a list of NetworkPolicy peers, of which an empty one is everybody.

In each process' settings: where it calls, from "holdfast.setting". A new dependency is a line here.
*/}}
{{- define "holdfast.edges" -}}
{{- $peers := .Values.networkPolicies.peers -}}
{{- $edges := list -}}
{{- range $name, $_ := .Values.services -}}
{{- $api := printf "%s/api" $name -}}
{{- $worker := printf "%s/worker" $name -}}
{{- $migration := printf "%s/migration" $name -}}

{{- /* The database and Redis. A migration needs no Redis. */ -}}
{{- $database := include "holdfast.pods" (list $ (include "holdfast.setting" (list $ $name "database.host" "")) $peers.database) | fromJson -}}
{{- $port := include "holdfast.setting" (list $ $name "database.port" 5432) | int -}}
{{- range list $api $worker $migration -}}
{{- $edges = append $edges (dict "from" . "to" $database.pods "ports" (list $port)) -}}
{{- end -}}
{{- $redis := include "holdfast.pods" (list $ (include "holdfast.setting" (list $ $name "redis.host" "")) $peers.redis) | fromJson -}}
{{- $port := include "holdfast.setting" (list $ $name "redis.port" 6379) | int -}}
{{- range list $api $worker -}}
{{- $edges = append $edges (dict "from" . "to" $redis.pods "ports" (list $port)) -}}
{{- end -}}

{{- /* Spans to the collector; metrics to whoever scrapes. */ -}}
{{- with include "holdfast.setting" (list $ $name "telemetry.otlp_endpoint" "") -}}
{{- $port := include "holdfast.portOf" . | int -}}
{{- range list $api $worker -}}
{{- $edges = append $edges (dict "from" . "to" $peers.collector "ports" (list $port)) -}}
{{- end -}}
{{- end -}}
{{- range list $api $worker -}}
{{- $edges = append $edges (dict "from" $peers.prometheus "to" . "ports" (list 9000)) -}}
{{- end -}}
{{- end -}}

{{- /* Workers to what they depend on, and the API of orders to payments. */ -}}
{{- $payments := include "holdfast.setting" (list $ "orders" "payments.base_url" "") -}}
{{- $pods := include "holdfast.pods" (list $ $payments list) | fromJson -}}
{{- range list "orders/api" "orders/worker" -}}
{{- $edges = append $edges (dict "from" . "to" $pods.pods "ports" (list (include "holdfast.portOf" $payments | int))) -}}
{{- end -}}
{{- $provider := include "holdfast.setting" (list $ "payments" "provider.base_url" "") -}}
{{- $pods := include "holdfast.pods" (list $ $provider $peers.provider) | fromJson -}}
{{- $edges = append $edges (dict "from" "payments/worker" "to" $pods.pods "ports" (list (include "holdfast.portOf" $provider | int))) -}}
{{- $pods := include "holdfast.pods" (list $ (include "holdfast.setting" (list $ "notifications" "smtp.host" "")) $peers.mail) | fromJson -}}
{{- $port := include "holdfast.setting" (list $ "notifications" "smtp.port" 25) | int -}}
{{- $edges = append $edges (dict "from" "notifications/worker" "to" $pods.pods "ports" (list $port)) -}}
{{- $ports := include "holdfast.setting" (list $ "notifications" "webhooks.egress.allowed_ports" (list 443)) | fromJsonArray -}}
{{- $edges = append $edges (dict "from" "notifications/worker" "to" (include "holdfast.customers" $ | fromJsonArray) "ports" $ports) -}}

{{- /* From outside. */ -}}
{{- if .Values.ingress.enabled -}}
{{- range $name, $host := .Values.ingress.hosts -}}
{{- if $host -}}
{{- $edges = append $edges (dict "from" $peers.ingressController "to" (printf "%s/api" $name) "ports" (list 8000)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Simulators, the customer of `helm test`, and Locust. */ -}}
{{- if .Values.simulators.enabled -}}
{{- /* By its pod: whether a block of addresses means pods, too, differs between network plug-ins. */ -}}
{{- if has (float64 8103) $ports -}}
{{- $edges = append $edges (dict "from" "notifications/worker" "to" "customer-endpoint/server" "ports" (list 8103)) -}}
{{- end -}}
{{- $edges = append $edges (dict "from" "payment-provider/server" "to" "webhook-ingest/api" "ports" (list 8000)) -}}
{{- if and .Values.helmTest.enabled .Values.secrets.clients -}}
{{- $edges = append $edges (dict "from" "customer/test" "to" "orders/api" "ports" (list 8000)) -}}
{{- end -}}
{{- if and .Values.load.enabled .Values.secrets.clients -}}
{{- range list "orders/api" "webhook-ingest/api" -}}
{{- $edges = append $edges (dict "from" "load/customer" "to" . "ports" (list 8000)) -}}
{{- end -}}
{{- $edges = append $edges (dict "from" "load/customer" "to" "payment-provider/server" "ports" (list 8101)) -}}
{{- end -}}
{{- end -}}
{{- toJson $edges -}}
{{- end -}}

{{/* (list $ "http://holdfast-payments:8000" peers) → {"pods": …}: the pods of this release behind that host, or else these peers. */}}
{{- define "holdfast.pods" -}}
{{- $root := index . 0 -}}
{{- $host := regexReplaceAll "^[a-z]+://|[:/].*$" (index . 1) "" -}}
{{- $found := index . 2 -}}
{{- range $name, $_ := $root.Values.services -}}
{{- if eq $host (include "holdfast.name" (list $root $name)) -}}
{{- $found = printf "%s/api" $name -}}
{{- end -}}
{{- end -}}
{{- range $server, $is := dict "postgres" $root.Values.postgres "valkey" $root.Values.valkey
  "payment-provider" $root.Values.simulators "mailbox" $root.Values.simulators -}}
{{- if and $is.enabled (eq $host (include "holdfast.name" (list $root $server))) -}}
{{- $found = printf "%s/server" $server -}}
{{- end -}}
{{- end -}}
{{- dict "pods" $found | toJson -}}
{{- end -}}

{{/* "https://provider.example.com" → 443 */}}
{{- define "holdfast.portOf" -}}
{{- $named := regexFind ":[0-9]+" . | trimPrefix ":" -}}
{{- $named | default (hasPrefix "https:" . | ternary "443" "80") -}}
{{- end -}}

{{/*
Customers' webhook endpoints: the public internet, and the networks that the settings allow beside it. The exceptions are what
chassis.calls.ssrf refuses; the process itself refuses some addresses more, that a network cannot say.
*/}}
{{- define "holdfast.customers" -}}
{{- $v4 := list "0.0.0.0/8" "10.0.0.0/8" "100.64.0.0/10" "127.0.0.0/8" "168.63.129.16/32" "169.254.0.0/16" "172.16.0.0/12"
  "192.0.0.0/24" "192.0.2.0/24" "192.88.99.0/24" "192.168.0.0/16" "198.18.0.0/15" "198.51.100.0/24" "203.0.113.0/24"
  "224.0.0.0/4" "240.0.0.0/4" -}}
{{- $v6 := list "2001::/23" "2001:db8::/32" "2002::/16" "3fff::/20" -}}
{{- range include "holdfast.setting" (list $ "notifications" "webhooks.egress.refused_networks" list) | fromJsonArray -}}
{{- if regexMatch "^[23][0-9a-fA-F]{3}:" . -}}
{{- $v6 = append $v6 . -}}
{{- else if not (contains ":" .) -}}
{{- $v4 = append $v4 . -}}
{{- end -}}
{{- end -}}
{{- /* 2000::/3: what the IANA hands out. An exception outside of it would be refused. */ -}}
{{- $found := list (dict "ipBlock" (dict "cidr" "0.0.0.0/0" "except" (uniq $v4)))
  (dict "ipBlock" (dict "cidr" "2000::/3" "except" (uniq $v6))) -}}
{{- range include "holdfast.setting" (list $ "notifications" "webhooks.egress.allowed_networks" list) | fromJsonArray -}}
{{- $found = append $found (dict "ipBlock" (dict "cidr" .)) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* (list $ "from" "orders/api" ports) → one rule; the pods may be a list of peers, of which an empty one is everybody. */}}
{{- define "holdfast.rule" -}}
{{- $pods := index . 2 -}}
{{- if kindIs "string" $pods }}
{{ index . 1 }}:
  - podSelector:
      matchLabels:
        {{- include "holdfast.selector" (prepend (splitList "/" $pods) (index . 0)) | nindent 8 }}
{{- else if $pods }}
{{ index . 1 }}:
  {{- toYaml $pods | nindent 2 }}
{{- end }}
ports:
  {{- range index . 3 }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end -}}
