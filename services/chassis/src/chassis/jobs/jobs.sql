-- The job queue's statements. A job's attempt number is its fencing token: whoever finishes, extends or fails a job
-- must name the attempt it was claimed with, and finds no row once somebody else has claimed it.
--
-- Here and elsewhere, a statement that changes a limited number of rows picks them with `= ANY (ARRAY(SELECT …))`. The
-- planner works an array out once. A sub-select behind IN is a join: for a table that was empty when it was analysed it
-- is worked out for each row, and with FOR UPDATE SKIP LOCKED it finds other rows each time.

-- name: enqueue
-- Add a job that has no unique key, which spares the look for a twin: 40 µs of some 200.
INSERT INTO job (
    name, queue, priority, payload, payload_version, max_attempts, run_at, deadline, traceparent, debug
)
VALUES (
    :job_name, :job_queue, :job_priority, CAST(:job_payload AS jsonb), :job_version, :job_max_attempts,
    now() + make_interval(secs => CAST(:delay AS double precision)),
    now() + make_interval(secs => CAST(:deadline AS double precision)),
    CAST(:job_traceparent AS text), CAST(:job_debug AS text)
);

-- name: enqueue_unique
-- Add a job. No row is added when a job of this name and unique key waits already.
INSERT INTO job (
    name, queue, priority, payload, payload_version, max_attempts, run_at, deadline, unique_key, traceparent, debug
)
VALUES (
    :job_name, :job_queue, :job_priority, CAST(:job_payload AS jsonb), :job_version, :job_max_attempts,
    now() + make_interval(secs => CAST(:delay AS double precision)),
    now() + make_interval(secs => CAST(:deadline AS double precision)),
    CAST(:job_unique_key AS text), CAST(:job_traceparent AS text), CAST(:job_debug AS text)
)
ON CONFLICT (name, unique_key) WHERE unique_key IS NOT NULL DO NOTHING;

-- name: turn
-- A turn of a worker: the end of its finished jobs (:ids, :attempts), which leave no row, and up to :count ready ones for
-- :lease seconds, the highest priority first. Both in one statement, since a round trip and a commit cost as much as
-- the work on ten jobs. A finished one that had lost its lease comes back without a name.
--
-- The attempt is counted here, so that a job which kills its process uses up its attempts. The unique key is given up:
-- a retry cannot collide with a job enqueued meanwhile, and what arrives while this one runs is not refused. Suspects
-- (:suspects) are claimed apart from the others, and those that run alone (:alone) apart from other suspects. Delayed jobs
-- of a high priority cost nothing: PostgreSQL 18 skips from priority to priority in the index.
--
-- The count and the finished ones are hidden in subselects and the ids are an array, so that one plan serves any number
-- of either and any backlog: with them in sight each turn is planned anew, and a join reads the whole table once a tenth
-- of a deep queue is to be expected. What runs has a lease, and nothing else has; asked for the status of the finished
-- ones, PostgreSQL may walk through the index of all that run and lately ran.
WITH finished AS (
    SELECT id, attempt
    FROM unnest((SELECT CAST(:ids AS bigint[])), (SELECT CAST(:attempts AS integer[]))) AS finished (id, attempt)
), ended AS (
    DELETE FROM job
    USING finished
    WHERE job.id = finished.id AND job.attempt = finished.attempt AND lease_until IS NOT NULL
    RETURNING job.id, job.attempt
), claimable AS (
    SELECT id FROM job
    WHERE status = 'ready' AND queue = :queue AND run_at <= now() AND is_suspect = :suspects AND runs_alone = :alone
    ORDER BY priority DESC, run_at, id
    LIMIT (SELECT CAST(:count AS bigint))
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE job
    SET status = 'running', attempt = attempt + 1, worker = :worker, unique_key = NULL,
        lease_until = now() + make_interval(secs => CAST(:lease AS double precision)), written_at = now()
    WHERE id = ANY (ARRAY(SELECT id FROM claimable))
    RETURNING id, attempt, name, payload::text AS payload, payload_version, max_attempts, traceparent, debug,
        extract(epoch FROM now() - run_at)::float8 AS waited, extract(epoch FROM deadline - now())::float8 AS seconds_left
)
SELECT * FROM claimed
UNION ALL
SELECT id, attempt, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM finished
WHERE (id, attempt) NOT IN (SELECT id, attempt FROM ended);

-- name: turn_oldest
-- The same, but the longest due first, whatever their priority: every few turns, so that no priority can starve.
WITH finished AS (
    SELECT id, attempt
    FROM unnest((SELECT CAST(:ids AS bigint[])), (SELECT CAST(:attempts AS integer[]))) AS finished (id, attempt)
), ended AS (
    DELETE FROM job
    USING finished
    WHERE job.id = finished.id AND job.attempt = finished.attempt AND lease_until IS NOT NULL
    RETURNING job.id, job.attempt
), claimable AS (
    SELECT id FROM job
    WHERE status = 'ready' AND queue = :queue AND run_at <= now() AND is_suspect = :suspects AND runs_alone = :alone
    ORDER BY run_at, id
    LIMIT (SELECT CAST(:count AS bigint))
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE job
    SET status = 'running', attempt = attempt + 1, worker = :worker, unique_key = NULL,
        lease_until = now() + make_interval(secs => CAST(:lease AS double precision)), written_at = now()
    WHERE id = ANY (ARRAY(SELECT id FROM claimable))
    RETURNING id, attempt, name, payload::text AS payload, payload_version, max_attempts, traceparent, debug,
        extract(epoch FROM now() - run_at)::float8 AS waited, extract(epoch FROM deadline - now())::float8 AS seconds_left
)
SELECT * FROM claimed
UNION ALL
SELECT id, attempt, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM finished
WHERE (id, attempt) NOT IN (SELECT id, attempt FROM ended);

-- name: complete
-- A finished job leaves no row. No row comes back when its lease was lost.
DELETE FROM job WHERE id = :id AND attempt = :attempt AND status = 'running' RETURNING id;

-- name: heartbeat
-- Extend a worker's leases to :lease seconds from now. Jobs that do not come back are lost. A row that is locked is
-- being completed at this moment: waiting for it would hold up the other leases, and it still counts as held.
WITH held AS (
    SELECT job.id, job.attempt
    FROM job JOIN unnest(CAST(:ids AS bigint[]), CAST(:attempts AS integer[])) AS mine (id, attempt) USING (id, attempt)
    WHERE status = 'running'
), extendable AS (
    SELECT job.id FROM job JOIN held USING (id, attempt) WHERE status = 'running' FOR UPDATE OF job SKIP LOCKED
), extended AS (
    UPDATE job SET lease_until = now() + make_interval(secs => CAST(:lease AS double precision)), written_at = now()
    FROM extendable WHERE job.id = extendable.id
)
SELECT id, attempt FROM held;

-- name: retry
-- A failed attempt: ready again in :delay seconds, with :granted more attempts, one if it is not to count. It came to an
-- end, so it is no longer suspected of killing its worker. The failure is remembered: the job's row goes once it succeeds.
WITH failed AS (
    UPDATE job
    SET status = 'ready', is_suspect = false, runs_alone = false, max_attempts = max_attempts + :granted,
        run_at = now() + make_interval(secs => CAST(:delay AS double precision)), written_at = now(),
        last_error = :error, lease_until = NULL, worker = NULL
    WHERE id = :id AND attempt = :attempt AND status = 'running'
    RETURNING id, name, payload, attempt, last_error, run_at
)
INSERT INTO job_failure (job_id, name, payload, attempt, error, retry_at)
SELECT id, name, payload, attempt, last_error, run_at FROM failed
RETURNING job_id;

-- name: bury
-- No attempt is left, or none can help: a dead letter with its reason.
WITH buried AS (
    UPDATE job
    SET status = 'dead', last_error = :error, lease_until = NULL, worker = NULL
    WHERE id = :id AND attempt = :attempt AND status = 'running'
    RETURNING id, name, payload, attempt, last_error
)
INSERT INTO job_failure (job_id, name, payload, attempt, error)
SELECT id, name, payload, attempt, last_error FROM buried
RETURNING job_id;

-- name: hand_back
-- A worker that stops, or that had to end jobs because it could not extend their leases, gives them back. The attempt is
-- not taken back but granted anew: the token only ever grows.
UPDATE job
SET status = 'ready', max_attempts = max_attempts + 1, lease_until = NULL, worker = NULL,
    run_at = LEAST(run_at, now()), written_at = now()
FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS integer[])) AS held (id, attempt)
WHERE job.id = held.id AND job.attempt = held.attempt AND status = 'running'
RETURNING job.id;

-- name: reap
-- Jobs whose worker has gone silent, whatever their queue. Another job beside it may be to blame, so the attempt is granted
-- anew: the first time the job becomes a suspect, of which a worker runs one at a time, and the second time it runs alone
-- from then on. Only a lease that it loses alone counts, and it dies of its last attempt: nothing dies of its neighbours.
WITH expired AS (
    SELECT id FROM job WHERE status = 'running' AND lease_until < now() FOR UPDATE SKIP LOCKED
), reaped AS (
    UPDATE job
    SET status = CASE WHEN runs_alone AND attempt >= max_attempts THEN 'dead' ELSE 'ready' END,
        max_attempts = CASE WHEN runs_alone THEN max_attempts ELSE max_attempts + 1 END,
        last_error = 'the lease of attempt ' || attempt || ' expired on ' || worker,
        is_suspect = true, runs_alone = is_suspect, lease_until = NULL, worker = NULL,
        run_at = LEAST(run_at, now()), written_at = now()
    FROM expired
    WHERE job.id = expired.id
    RETURNING job.id, name, queue, payload, attempt, status, last_error
), remembered AS (
    INSERT INTO job_failure (job_id, name, payload, attempt, error, retry_at)
    SELECT id, name, payload, attempt, last_error, CASE status WHEN 'ready' THEN now() END FROM reaped
)
SELECT id, name, queue, attempt, status FROM reaped;

-- name: set_back
-- After the server's clock was set back: times that it wrote before, and that lie ahead now, are set back with it, so that
-- no job and no lease waits until the clock has caught up. Such a row was written at a time that is yet to come. The queue's
-- delayed jobs are read for it, so it is not for every look.
WITH ahead AS (
    SELECT id FROM job
    WHERE status = 'ready' AND queue = :queue AND is_suspect IN (false, true) AND run_at > now() AND written_at > now()
    FOR UPDATE SKIP LOCKED
), leased_ahead AS (
    SELECT id FROM job WHERE status = 'running' AND written_at > now() FOR UPDATE SKIP LOCKED
)
UPDATE job
SET run_at = run_at - (written_at - now()), lease_until = lease_until - (written_at - now()),
    deadline = deadline - (written_at - now()), written_at = now()
WHERE id = ANY (ARRAY(SELECT id FROM ahead UNION ALL SELECT id FROM leased_ahead))
RETURNING id;

-- name: sample
-- The state of a queue: jobs that are due (counted up to :limit), age of the oldest of them (seconds), dead letters,
-- and whether a suspect is due, beside others or alone. Suspects lie apart in the index, so each kind has its own oldest.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM job
        WHERE status = 'ready' AND queue = :queue AND is_suspect IN (false, true) AND run_at <= now() LIMIT :limit
    ) AS due) AS depth,
    GREATEST(0, extract(epoch FROM now() - LEAST(
        (SELECT min(run_at) FROM job WHERE status = 'ready' AND queue = :queue AND NOT is_suspect),
        (SELECT min(run_at) FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect)
    )))::float8 AS oldest_age,
    (SELECT count(*) FROM job WHERE status = 'dead' AND queue = :queue) AS dead_letters,
    EXISTS (
        SELECT FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect AND run_at <= now() AND NOT runs_alone
    ) AS has_suspects,
    EXISTS (
        SELECT FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect AND run_at <= now() AND runs_alone
    ) AS has_lone;

-- name: backlog
-- How many jobs of a queue wait, delayed ones included, counted up to :limit: what a failing dependency piles up waits
-- for its next attempt.
SELECT count(*) FROM (SELECT FROM job WHERE status = 'ready' AND queue = :queue LIMIT :limit) AS waiting;

-- name: prune
-- Dead letters that were due more than :retention seconds ago are forgotten, :count at a time.
DELETE FROM job WHERE id = ANY (ARRAY(
    SELECT id FROM job
    WHERE status = 'dead' AND run_at < now() - make_interval(secs => CAST(:retention AS double precision))
    ORDER BY id LIMIT :count
    FOR UPDATE SKIP LOCKED
))
RETURNING id, name;

-- name: prune_failures
-- Failed attempts of more than :retention seconds ago are forgotten. It looks at the oldest :count only, so that its
-- cost is bounded.
DELETE FROM job_failure
WHERE id = ANY (ARRAY(SELECT id FROM job_failure ORDER BY id LIMIT :count))
    AND failed_at < now() - make_interval(secs => CAST(:retention AS double precision));

-- name: list_dead
-- Dead letters, the oldest first: of a name, of a queue, with a text in their reason.
SELECT id, name, queue, status, attempt, max_attempts, payload::text AS payload, payload_version, run_at, traceparent, last_error, created_at
FROM job
WHERE status = 'dead' AND (CAST(:name AS text) IS NULL OR name = :name) AND (CAST(:queue AS text) IS NULL OR queue = :queue)
    AND (CAST(:error AS text) IS NULL OR position(:error IN last_error) > 0)
ORDER BY id
LIMIT :count;

-- name: show
-- One job, in whatever state.
SELECT id, name, queue, status, attempt, max_attempts, payload::text AS payload, payload_version, run_at, traceparent, last_error, created_at
FROM job
WHERE id = :id;

-- name: find_replayable
-- The dead letters a replay would take, locked until the transaction ends.
SELECT id FROM job
WHERE status = 'dead' AND (CAST(:id AS bigint) IS NULL OR id = :id)
    AND (CAST(:name AS text) IS NULL OR name = :name) AND (CAST(:queue AS text) IS NULL OR queue = :queue)
    AND (CAST(:error AS text) IS NULL OR position(:error IN last_error) > 0)
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: replay
-- Dead letters become ready with :attempts more attempts; their attempt number goes on growing.
UPDATE job
SET status = 'ready', run_at = now(), written_at = now(), deadline = NULL, is_suspect = false, runs_alone = false,
    max_attempts = attempt + CAST(:attempts AS integer)
WHERE id = ANY (CAST(:ids AS bigint[])) AND status = 'dead'
RETURNING queue;

-- name: stats
-- Jobs by queue, name and status, and how long the oldest has been due or dead (seconds).
SELECT queue, name, status, count(*) AS jobs, GREATEST(0, extract(epoch FROM now() - min(run_at)))::float8 AS oldest_age
FROM job
GROUP BY queue, name, status
ORDER BY queue, name, status;

-- name: work_left
-- Jobs that are due, that run, and that are due later; of one queue or of all.
SELECT
    count(*) FILTER (WHERE status = 'ready' AND run_at <= now()) AS due,
    count(*) FILTER (WHERE status = 'running') AS running,
    count(*) FILTER (WHERE status = 'ready' AND run_at > now()) AS later
FROM job
WHERE status IN ('ready', 'running') AND (CAST(:queue AS text) IS NULL OR queue = :queue);
