"""Beam search: of each sequence the most likely beginnings are continued, and the best answer won.

Shapes: S sequences that are still searched, K hypotheses of each, V vocabulary.
"""

from dataclasses import dataclass

import torch

from everytoken.decoding.continuation import Continuation


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Looks for the answer with the best score, following so many hypotheses at a time.

    An answer is a sequence that ends with the end token, or is as long as it may be. Its score is
    sum(log p) / length^length_penalty, its length all new tokens, the end token among them; as in
    fairseq (Ott et al. 2019), a simpler form of Wu et al. 2016, eq. 14. A sequence is done with
    when `beams` answers were found, or none of its hypotheses can become better than the best: as
    transformers does with early_stopping=True, whose "never" goes on after so many answers too.

    Args:
        beams: hypotheses of each sequence, at least 1; 1 chooses as greedy decoding.
        length_penalty: 0 prefers short answers, 1 the best mean log p, more long answers.
    """

    beams: int
    length_penalty: float

    @property
    def hypotheses(self) -> int:
        """Rows that a sequence takes."""
        return self.beams

    def score(self, log_p: float, length: int) -> float:
        """The score of an answer."""
        return log_p / length**self.length_penalty

    def decode(
        self, continuation: Continuation, keys: list[int], *, end_id: int, max_new_tokens: int
    ) -> list[list[int]]:
        """See `Decoding`: the best answer to each prompt."""
        ends = continuation.ends(end_id)
        wanted = (1 + len(ends)) * self.beams  # if all beams end in each way, as many go on
        logits = continuation.start()
        end_ids = torch.tensor(ends, device=logits.device)
        best: list[tuple[float, list[int]]] = [(float("-inf"), [])] * len(logits)
        found = [0] * len(logits)
        searched = list(range(len(logits)))  # (S,) which prompts
        log_p = logits.new_zeros(len(logits), 1)  # (S, K) of each hypothesis
        tokens = log_p.new_empty(len(logits), 1, 0, dtype=torch.int64)  # (S, K, T)
        for length in range(1, max_new_tokens + 1):
            best_log_p, best_ids = logits.topk(min(wanted, logits.shape[1]))
            best_log_p -= logits.logsumexp(-1, keepdim=True)
            choices = best_ids.shape[1]
            sums = (log_p[:, :, None] + best_log_p.view(*log_p.shape, choices)).flatten(1)
            sums, place = sums.topk(min(wanted, sums.shape[1]))
            parents = place // choices
            ids = best_ids.view(len(searched), -1).gather(1, place)
            tokens = tokens.gather(1, parents[:, :, None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat((tokens, ids[:, :, None]), dim=2)

            is_end = torch.isin(ids, end_ids)
            is_answer = is_end & sums.isfinite()
            is_answer[:, self.beams :] = False
            for row, column in is_answer.nonzero().tolist():
                score = self.score(float(sums[row, column]), length)
                which = searched[row]
                found[which] += 1
                if score > best[which][0]:
                    best[which] = score, tokens[row, column, :-1].tolist()

            log_p, goes_on = sums.masked_fill(is_end, float("-inf")).topk(
                min(self.beams, sums.shape[1])
            )
            tokens = tokens.gather(1, goes_on[:, :, None].expand(-1, -1, length))
            hopes = log_p[:, 0].tolist()
            if length == max_new_tokens:
                for row, (which, hope) in enumerate(zip(searched, hopes, strict=True)):
                    if self.score(hope, length) > best[which][0]:
                        best[which] = self.score(hope, length), tokens[row, 0].tolist()
                break
            open_rows = [
                row
                for row, (which, hope) in enumerate(zip(searched, hopes, strict=True))
                if found[which] < self.beams
                # Its log p only falls, so its score is highest at one end of the lengths to come.
                and max(self.score(hope, length + 1), self.score(hope, max_new_tokens))
                > best[which][0]
            ]
            if not open_rows:
                break
            keep = torch.tensor(open_rows, device=logits.device)
            rows = keep[:, None] * (len(logits) // len(searched))
            rows = rows + parents.gather(1, goes_on)[keep]
            continuation.select(rows)
            searched = [searched[row] for row in open_rows]
            log_p, tokens = log_p[keep], tokens[keep]
            logits = continuation.step(tokens[:, :, -1].flatten())
        return [answer for _, answer in best]
