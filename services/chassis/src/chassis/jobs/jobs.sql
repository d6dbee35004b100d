-- The job queue's statements. A job's attempt number is its fencing token. A worker passes the attempt number of its
-- claim to each statement that ends a job or extends a lease. Such a statement finds no row once another worker has
-- claimed the job, because that claim has increased the number.
--
-- A statement that changes a limited number of rows selects the rows with `= ANY (ARRAY(SELECT …))`, here and
-- elsewhere. PostgreSQL evaluates the array once. With a sub-select after IN, PostgreSQL would plan a join. If the
-- table was empty at its last ANALYZE, PostgreSQL evaluates the join's inner side for each row. In each evaluation FOR
-- UPDATE SKIP LOCKED finds other rows, so the statement changes more rows than its limit.

-- name: enqueue
-- Add a job without a deduplication key. `enqueue_unique` takes 40 µs longer, to look for a duplicate.
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
-- Add a job, unless a job of this name with the same deduplication key already waits.
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
-- One turn of a worker: delete the worker's finished jobs (:ids, :attempts), and claim up to :count ready jobs for
-- :lease seconds, the highest priority first. One statement ends and claims jobs, since a round trip and a commit cost
-- as much as the work on ten jobs. The result contains the claimed jobs, and each finished job whose lease was lost,
-- with NULL as its name.
--
-- The claim increases the attempt number. If the end of an attempt increased the number, a job that kills its process
-- would never use up its attempts. The claim also clears the deduplication key. So another job with the same key may be
-- enqueued while this job runs, and a retry of this job does not conflict with the other job. A suspect is a job whose
-- lease expired: the job may have killed the process that ran it. A claim takes either suspects (:suspects) or other
-- jobs. Suspects that must run alone need a separate claim (:alone). Delayed jobs of a high priority do not slow a
-- claim, since PostgreSQL 18 skips from one priority to the next in the index.
--
-- The claim takes jobs that became due at most :lookback seconds ago, or all due jobs if :lookback is NULL. Each job
-- that has run leaves a dead entry at the start of the index. While an old transaction holds back vacuum, a claim
-- without this bound would step over all of these entries (`lookback.py`).
--
-- Sub-selects hide the values of :count, :ids and :attempts from the planner. So PostgreSQL plans the statement once
-- and not each time that it runs. For a LIMIT with a hidden value, the planner expects that a tenth of the rows is
-- returned. The claimed ids are therefore an array. If they were joined, the planner would expect a join with a tenth
-- of a deep queue, and would read the whole table. The DELETE tests `lease_until`, which only running jobs have. A test
-- of `status` may make PostgreSQL scan the index of all jobs that run or ran recently.
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
    WHERE status = 'ready' AND queue = :queue AND is_suspect = :suspects AND runs_alone = :alone AND run_at <= now()
        AND run_at >= (SELECT COALESCE(now() - make_interval(secs => CAST(:lookback AS double precision)), '-infinity'))
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
-- The statement `turn` in another order: the jobs that have been due longest come first, whatever their priority. A
-- worker uses this statement for one claim in four, so that low priorities do not starve.
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
    WHERE status = 'ready' AND queue = :queue AND is_suspect = :suspects AND runs_alone = :alone AND run_at <= now()
        AND run_at >= (SELECT COALESCE(now() - make_interval(secs => CAST(:lookback AS double precision)), '-infinity'))
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
-- Delete a finished job. Returns no row if the lease was lost.
DELETE FROM job WHERE id = :id AND attempt = :attempt AND status = 'running' RETURNING id;

-- name: heartbeat
-- Extend a worker's leases to :lease seconds from now, and return the jobs that the worker still owns. A locked row
-- belongs to a job that is being completed. The statement skips the row without waiting, and returns the job as owned.
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
-- End a failed attempt: the job is ready again in :delay seconds. :granted is 1 if the attempt does not count, and
-- otherwise 0. The attempt has not killed the process, so the job is no longer a suspect (a job that may have killed
-- its process). `job_failure` records the failure, since the job's own row is deleted once the job succeeds.
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
-- Make the job a dead letter and store the reason. No attempt is left, or no further attempt can succeed.
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
-- Make jobs of a worker ready again, because the worker stops, or has lost the jobs' leases, or because the dependency
-- of a job refuses calls for now. The jobs keep their order, since `run_at` (the time at which a job is due) stays the
-- same. The attempt does not count, so the statement increases `max_attempts`. The statement does not decrease
-- `attempt`, because a fencing token may only grow.
UPDATE job
SET status = 'ready', max_attempts = max_attempts + 1, lease_until = NULL, worker = NULL,
    run_at = LEAST(run_at, now()), written_at = now()
FROM unnest(CAST(:ids AS bigint[]), CAST(:attempts AS integer[])) AS held (id, attempt)
WHERE job.id = held.id AND job.attempt = held.attempt AND status = 'running'
RETURNING job.id;

-- name: reap
-- Make jobs with an expired lease ready again, in all queues. Another job of the same process may have killed the
-- process, so at first the attempt does not count, and the statement increases `max_attempts`. After the first lost
-- lease the job is a suspect, and a worker runs one suspect at a time. After the second lost lease the job runs alone.
-- If the job loses its lease while it runs alone, the attempt counts, and after the last attempt the job is dead. So no
-- job becomes a dead letter because of the jobs beside it.
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
-- Correct the times of jobs after the database server's clock was set back. Without this correction, jobs and leases
-- would wait until the clock catches up. A row whose `written_at` is in the future was written before the clock was set
-- back. The row's times move back by as much as `written_at` is ahead. The statement reads all delayed jobs of the
-- queue, so a worker executes it less often than the statement `sample`.
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
-- The state of a queue: the number of due jobs (up to :limit), the number of dead letters, and whether suspects are
-- due. Also two ages in seconds: that of the oldest due job, and that of the oldest due job that is no suspect (NULL if
-- there is none). A suspect (a job whose lease expired) may run beside other jobs, or, after a second lost lease, must
-- run alone. The index sorts by `is_suspect` before `run_at`, so the statement looks up the oldest suspect and the
-- oldest other job separately. These two look-ups read the index from its start, over the entries of all jobs that have
-- run since the last vacuum. The count of the due jobs begins at the older of the two jobs.
WITH oldest AS MATERIALIZED (
    SELECT
        (SELECT min(run_at) FROM job WHERE status = 'ready' AND queue = :queue AND NOT is_suspect) AS other,
        (SELECT min(run_at) FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect) AS suspect
)
SELECT
    (SELECT count(*) FROM (
        SELECT FROM job
        WHERE status = 'ready' AND queue = :queue AND is_suspect IN (false, true) AND run_at <= now()
            AND run_at >= (SELECT LEAST(other, suspect) FROM oldest)
        LIMIT :limit
    ) AS due) AS depth,
    GREATEST(0, extract(epoch FROM now() - (SELECT LEAST(other, suspect) FROM oldest)))::float8 AS oldest_age,
    (SELECT extract(epoch FROM now() - other)::float8 FROM oldest WHERE other <= now()) AS oldest_other_age,
    (SELECT count(*) FROM job WHERE status = 'dead' AND queue = :queue) AS dead_letters,
    EXISTS (
        SELECT FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect AND run_at <= now() AND NOT runs_alone
    ) AS has_suspects,
    EXISTS (
        SELECT FROM job WHERE status = 'ready' AND queue = :queue AND is_suspect AND run_at <= now() AND runs_alone
    ) AS has_lone;

-- name: prune
-- Delete up to :count dead letters that were due more than :retention seconds ago.
DELETE FROM job WHERE id = ANY (ARRAY(
    SELECT id FROM job
    WHERE status = 'dead' AND run_at < now() - make_interval(secs => CAST(:retention AS double precision))
    ORDER BY id LIMIT :count
    FOR UPDATE SKIP LOCKED
))
RETURNING id, name;

-- name: prune_failures
-- Delete failed attempts older than :retention seconds. Only the oldest :count rows are read, which bounds the cost.
DELETE FROM job_failure
WHERE id = ANY (ARRAY(SELECT id FROM job_failure ORDER BY id LIMIT :count))
    AND failed_at < now() - make_interval(secs => CAST(:retention AS double precision));

-- name: list_dead
-- The oldest :count dead letters, filtered by name, by queue, and by a part of the reason.
SELECT id, name, queue, status, attempt, max_attempts, payload::text AS payload, payload_version, run_at, traceparent, last_error, created_at
FROM job
WHERE status = 'dead' AND (CAST(:name AS text) IS NULL OR name = :name) AND (CAST(:queue AS text) IS NULL OR queue = :queue)
    AND (CAST(:error AS text) IS NULL OR position(:error IN last_error) > 0)
ORDER BY id
LIMIT :count;

-- name: show
-- One job, in any status.
SELECT id, name, queue, status, attempt, max_attempts, payload::text AS payload, payload_version, run_at, traceparent, last_error, created_at
FROM job
WHERE id = :id;

-- name: find_replayable
-- The dead letters that a replay selects. Their rows stay locked until the transaction ends.
SELECT id FROM job
WHERE status = 'dead' AND (CAST(:id AS bigint) IS NULL OR id = :id)
    AND (CAST(:name AS text) IS NULL OR name = :name) AND (CAST(:queue AS text) IS NULL OR queue = :queue)
    AND (CAST(:error AS text) IS NULL OR position(:error IN last_error) > 0)
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: replay
-- Make dead letters ready with :attempts more attempts. The attempt number is the fencing token, so the statement does
-- not set it back to 0.
UPDATE job
SET status = 'ready', run_at = now(), written_at = now(), deadline = NULL, is_suspect = false, runs_alone = false,
    max_attempts = attempt + CAST(:attempts AS integer)
WHERE id = ANY (CAST(:ids AS bigint[])) AND status = 'dead'
RETURNING queue;

-- name: stats
-- The number of jobs by queue, name and status, and the seconds since the oldest of them was due.
SELECT queue, name, status, count(*) AS jobs, GREATEST(0, extract(epoch FROM now() - min(run_at)))::float8 AS oldest_age
FROM job
GROUP BY queue, name, status
ORDER BY queue, name, status;

-- name: work_left
-- The numbers of jobs that are due, that run, and that are due later, in one queue or in all queues.
SELECT
    count(*) FILTER (WHERE status = 'ready' AND run_at <= now()) AS due,
    count(*) FILTER (WHERE status = 'running') AS running,
    count(*) FILTER (WHERE status = 'ready' AND run_at > now()) AS later
FROM job
WHERE status IN ('ready', 'running') AND (CAST(:queue AS text) IS NULL OR queue = :queue);
