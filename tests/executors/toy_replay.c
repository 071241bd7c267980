/* The smallest thing that can replay a recorded program: float32, one sequence, no threads, written to be read.
   It is a proof that the program says everything, not an engine. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EMBED, LAST_ROWS, LINEAR, HEAD_LINEAR, NORM, ROPE, SCALE_BY_POSITION, CLIP, SLICE, JOIN, ADD, MUL, SCALE,
       SOFTCAP, GLU, WRITE_KV, ATTEND, ROUTE, EXPERTS, CONVOLVE, RECUR, ACTIVATE,
       ABOVE, RESIZED, MIX };

typedef struct { int op, wanted, part, layer, width, in_width, out[3], in[5], param[6], i[8]; } instruction;
typedef struct { const float *data; int rows, cols, size; } parameter;  /* rows x cols: of one matrix of a stack */
typedef struct { int kv_heads, key_dim, value_dim, latent; float *keys, *values; } cache;
typedef struct { const float *frequencies; float factor; } rope;
typedef struct { float beta, period, offset; } position_scale;

static float curve(int kind, float x, float slope) {
  if (kind == 0) return x / (1 + expf(-x * slope));
  if (kind == 1) return 0.5f * x * (1 + erff(x * 0.70710678f));
  if (kind == 3) return x;
  if (kind == 4) return 1 / (1 + expf(-x));
  if (kind == 5) return x > 20 ? x : log1pf(expf(x));
  if (kind == 6) return x > 0 ? x * x : 0;
  if (kind == 7) return x > 0 ? x : 0;
  if (kind == 8) return x < 0 ? expm1f(x) - x : 0;
  return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

static float glu(int kind, const float *f, float gate, float up) {
  if (gate > f[3]) gate = f[3];
  if (up > f[0]) up = f[0];
  if (up < -f[0]) up = -f[0];
  return curve(kind, gate, f[1]) * (up + f[2]);
}

static void matvec(float *y, const float *x, const parameter *w, int which, const parameter *bias) {
  for (int r = 0; r < w->rows; r++) {
    const float *row = w->data + ((size_t)which * w->rows + r) * w->cols;
    double sum = 0;
    for (int c = 0; c < w->cols; c++) sum += (double)row[c] * x[c];
    y[r] = (float)sum + (bias ? bias->data[(size_t)which * w->rows + r] : 0);
  }
}

static double mean_square(const float *x, int n, double *mean) {
  double sum = 0, square = 0;
  for (int c = 0; c < n; c++) sum += x[c], square += (double)x[c] * x[c];
  *mean = sum / n;
  return square / n;
}

static int first_visible(int kind, int size, int at) {
  if (kind == 1) return at - size + 1 > 0 ? at - size + 1 : 0;
  return kind == 2 ? at - at % size : 0;
}

static void attend(float *y, const float *q, const instruction *s, const float *f, const cache *c, const float *sinks,
                   int at) {
  int first = first_visible(s->i[2], s->i[3], at), heads = s->i[1];
  float *p = malloc(sizeof(float) * (at + 1));
  for (int h = 0; h < heads; h++) {
    int kv = h / (heads / c->kv_heads);
    float best = sinks ? sinks[h] : -INFINITY;
    for (int t = first; t <= at; t++) {
      const float *k = c->keys + ((size_t)t * c->kv_heads + kv) * c->key_dim;
      double dot = 0;
      for (int d = 0; d < c->key_dim; d++) dot += (double)q[h * c->key_dim + d] * k[d];
      p[t] = (float)dot * f[0];
      if (f[1] != 0) p[t] = f[1] * tanhf(p[t] / f[1]);
      if (p[t] > best) best = p[t];
    }
    double sum = sinks ? exp(sinks[h] - best) : 0;
    for (int t = first; t <= at; t++) sum += p[t] = expf(p[t] - best);
    for (int d = 0; d < c->value_dim; d++) {
      double v = 0;
      for (int t = first; t <= at; t++)
        v += (double)p[t] * (c->latent ? c->keys[(size_t)t * c->key_dim + d]
                                       : c->values[((size_t)t * c->kv_heads + kv) * c->value_dim + d]);
      y[h * c->value_dim + d] = (float)(v / sum);
    }
  }
  free(p);
}

static void softmax(float *x, int n) {
  float best = -INFINITY, sum = 0;
  for (int i = 0; i < n; i++) if (x[i] > best) best = x[i];
  for (int i = 0; i < n; i++) sum += x[i] = expf(x[i] - best);
  for (int i = 0; i < n; i++) x[i] /= sum;
}

static int best_of(const float *x, int n) {
  int best = 0;
  for (int i = 1; i < n; i++) if (x[i] > x[best]) best = i;
  return best;
}

static void route(float *ids, float *weights, const float *logits, const instruction *s, const float *f, int experts,
                  const float *bias, const float *expert_scale) {
  int chosen = s->i[0], scoring = s->i[1], groups = s->i[3];
  float *score = malloc(sizeof(float) * experts), *pick = malloc(sizeof(float) * experts), sum = 0;
  memcpy(score, logits, sizeof(float) * experts);
  if (scoring == 0) softmax(score, experts);
  if (scoring == 2) for (int e = 0; e < experts; e++) score[e] = 1 / (1 + expf(-logits[e]));
  for (int e = 0; e < experts; e++) pick[e] = score[e] + (bias ? bias[e] : 0);
  if (groups > 0) {
    int size = experts / groups;
    float *total = calloc(groups, sizeof(float)), *copy = malloc(sizeof(float) * experts);
    memcpy(copy, pick, sizeof(float) * experts);
    for (int g = 0; g < groups; g++)
      for (int b = 0; b < s->i[5]; b++) {
        int e = g * size + best_of(copy + g * size, size);
        total[g] += copy[e];
        copy[e] = -INFINITY;
      }
    for (int b = 0; b < s->i[4]; b++) total[best_of(total, groups)] = -INFINITY;  /* the chosen ones sink to -inf */
    for (int e = 0; e < experts; e++) if (total[e / size] != -INFINITY) pick[e] = -INFINITY;
    free(total);
    free(copy);
  }
  for (int r = 0; r < chosen; r++) {
    int e = best_of(pick, experts);
    ids[r] = e;
    weights[r] = score[e];
    if (scoring == 3) {
      float near_sum = 0;
      for (int o = 0; o < experts; o++) {
        float width = fabsf(logits[o]) > pick[e] ? fabsf(logits[o]) : pick[e];
        if (pick[o] != -INFINITY && !((pick[e] - logits[o]) / width > 2 * f[2])) near_sum += expf(pick[o] - pick[e]);
      }
      weights[r] = 1 / near_sum;
    }
    pick[e] = -INFINITY;
  }
  if (scoring == 1) softmax(weights, chosen);
  for (int r = 0; r < chosen; r++) sum += weights[r];
  for (int r = 0; r < chosen; r++) {
    if (s->i[2]) weights[r] /= sum + f[0];
    weights[r] *= f[1];
    if (expert_scale) weights[r] *= expert_scale[(int)ids[r]];
  }
  free(score);
  free(pick);
}

static void experts(float *y, const float *x, const float *ids, const float *weights, const instruction *s,
                    const float *f, const parameter *p[6]) {
  int hidden = p[0]->rows, in = p[0]->cols, out = p[4]->rows, count = p[0]->size / (hidden * in);
  float *gate = malloc(4 * hidden), *up = malloc(4 * hidden), *scaled = malloc(4 * in), *part = malloc(4 * out);
  memset(y, 0, 4 * out);
  for (int r = 0; r < s->i[0]; r++) {
    int e = (int)ids[r];
    if (e >= count) { /* handed on */
      for (int o = 0; o < out; o++) y[o] += x[o] * weights[r];
      continue;
    }
    for (int c = 0; c < in; c++) scaled[c] = x[c] * (s->i[1] ? weights[r] : 1);
    matvec(gate, scaled, p[0], e, p[1]);
    matvec(up, scaled, p[2], e, p[3]);
    for (int h = 0; h < hidden; h++)
      gate[h] = s->i[3] ? glu(s->i[2], f, gate[h], up[h]) : curve(s->i[2], up[h], 1);
    matvec(part, gate, p[4], e, p[5]);
    for (int o = 0; o < out; o++) y[o] += part[o] * (s->i[1] ? 1 : weights[r]);
  }
  free(gate); free(up); free(scaled); free(part);
}

/* One step of `n` tokens behind `past`; every row's logits are wanted. Returns nothing: buffers[logits] holds them. */
void replay(const instruction *program, const float (*numbers)[4], int length, const parameter *parameters,
            float **buffers, cache *caches, float **rows, const rope *ropes, const position_scale *scales,
            const int *tokens, int n, int past) {
  for (int k = 0; k < length; k++) {
    const instruction *s = program + k;
    const float *f = numbers[k];
    const parameter *p[6];
    for (int j = 0; j < 6; j++) p[j] = s->param[j] < 0 ? NULL : parameters + s->param[j];
    int width = s->width, in_width = s->in_width;
    for (int row = 0; row < n; row++) {
      int at = past + row;
      float *y = s->out[0] < 0 ? NULL : buffers[s->out[0]] + (size_t)row * width;
      const float *x = s->in[0] < 0 ? NULL : buffers[s->in[0]] + (size_t)row * in_width;
      switch (s->op) {
        case EMBED: {
          int of = s->i[0] ? at : tokens[row];
          memcpy(y, p[0]->data + (size_t)(of < p[0]->rows ? of : 0) * width, 4 * width);
          break;
        }
        case LAST_ROWS: memcpy(y, x, 4 * width); break;
        case LINEAR: matvec(y, x, p[0], 0, p[1]); break;
        case HEAD_LINEAR:
          for (int h = 0; h < s->i[0]; h++) matvec(y + h * p[0]->rows, x + h * p[0]->cols, p[0], h, NULL);
          break;
        case NORM:
          for (int g = 0, part = width / s->i[0]; g < s->i[0]; g++) {
            double mean = 0, square = 0;
            if (s->i[1]) for (int c = 0; c < part; c++) mean += x[g * part + c] / (double)part;
            for (int c = 0; c < part; c++) square += pow(x[g * part + c] - mean, 2) / part;
            for (int c = 0; c < part; c++)
              y[g * part + c] = (float)((x[g * part + c] - mean) / sqrt(square + f[0])) * (p[0] ? p[0]->data[c] : 1)
                                + (p[1] ? p[1]->data[c] : 0);
          }
          break;
        case ROPE:
          memcpy(y, x, 4 * width);
          for (int h = 0, head = width / s->i[0], half = s->i[2] / 2; h < s->i[0]; h++)
            for (int d = 0; d < half; d++) {
              const rope *table = ropes + s->i[1];
              int a = h * head + (s->i[3] ? 2 * d : d), b = s->i[3] ? a + 1 : a + half;
              float turn = at * table->frequencies[d], c = cosf(turn) * table->factor, t = sinf(turn) * table->factor;
              y[a] = x[a] * c - x[b] * t;
              y[b] = x[b] * c + x[a] * t;
            }
          break;
        case SCALE_BY_POSITION: {
          const position_scale *rule = scales + s->i[0];
          for (int c = 0; c < width; c++)
            y[c] = x[c] * (1 + rule->beta * log1pf(floorf((at + rule->offset) / rule->period)));
          break;
        }
        case CLIP: for (int c = 0; c < width; c++) y[c] = fminf(fmaxf(x[c], f[0]), f[1]); break;
        case SLICE:
          for (int g = 0, part = in_width / s->i[0], kept = s->i[2] - s->i[1]; g < s->i[0]; g++)
            memcpy(y + g * kept, x + g * part + s->i[1], 4 * kept);
          break;
        case JOIN: {
          int a = in_width / s->i[0], b = (width - in_width) / s->i[0];
          const float *other = buffers[s->in[1]] + (size_t)row * (width - in_width);
          for (int g = 0; g < s->i[0]; g++) {
            memcpy(y + g * (a + b), x + g * a, 4 * a);
            memcpy(y + g * (a + b) + a, other + g * b, 4 * b);
          }
          break;
        }
        case ADD: for (int c = 0; c < width; c++) y[c] = x[c] + buffers[s->in[1]][(size_t)row * width + c]; break;
        case MUL: for (int c = 0; c < width; c++) y[c] = x[c] * p[0]->data[c / (width / p[0]->size)]; break;
        case SCALE: for (int c = 0; c < width; c++) y[c] = x[c] * f[0]; break;
        case SOFTCAP: for (int c = 0; c < width; c++) y[c] = f[0] * tanhf(x[c] / f[0]); break;
        case ABOVE: {
          double mean, size = mean_square(x, width, &mean);
          for (int c = 0; c < width; c++) y[c] = (float)fmax(x[c] - mean - f[0] * sqrt(size - mean * mean), 0);
          break;
        }
        case RESIZED:
          for (int g = 0, part = width / s->i[0]; g < s->i[0]; g++) {
            double mean, like = mean_square(buffers[s->in[1]] + (size_t)row * part, part, &mean);
            double own = fmax(mean_square(x + g * part, part, &mean), f[0]);
            for (int c = 0; c < part; c++) y[g * part + c] = (float)(x[g * part + c] * sqrt(like / own));
          }
          break;
        case MIX: {
          int parts = s->i[0], part = in_width / parts, made = width / part;
          const float *weights = buffers[s->in[1]] + (size_t)row * made * parts;
          memset(y, 0, 4 * width);
          for (int o = 0; o < made; o++)
            for (int g = 0; g < parts; g++)
              for (int c = 0; c < part; c++) y[o * part + c] += weights[o * parts + g] * x[g * part + c];
          break;
        }
        case GLU:
          for (int c = 0; c < width; c++)
            y[c] = glu(s->i[0], f, x[c / (width / in_width)], buffers[s->in[1]][(size_t)row * width + c]);
          break;
        case WRITE_KV: {
          cache *to = caches + s->i[0];
          size_t keys = (size_t)to->kv_heads * to->key_dim, values = (size_t)to->kv_heads * to->value_dim;
          memcpy(to->keys + at * keys, x, 4 * keys);
          if (s->in[1] >= 0) memcpy(to->values + at * values, buffers[s->in[1]] + row * values, 4 * values);
          break;
        }
        case ATTEND: attend(y, x, s, f, caches + s->i[0], p[0] ? p[0]->data : NULL, at); break;
        case ACTIVATE: for (int c = 0; c < width; c++) y[c] = curve(s->i[0], x[c], 1); break;
        case RECUR: {
          int heads = s->i[1], key_heads = s->i[2], keys = s->i[3], values = s->i[4], delta = s->i[5], vector = s->i[6];
          const float *k = buffers[s->in[1]] + (size_t)row * in_width, *v = buffers[s->in[2]] + (size_t)row * width;
          const float *decay = buffers[s->in[3]] + (size_t)row * heads * (vector ? keys : 1);
          const float *beta = buffers[s->in[4]] + (size_t)row * heads;
          for (int h = 0; h < heads; h++) {
            int from = (s->i[7] ? h % key_heads : h / (heads / key_heads)) * keys;
            float *state = rows[s->i[0]] + (size_t)h * keys * values;
            for (int c = 0; c < values; c++) {
              double seen = 0, result = 0;
              for (int i = 0; i < keys; i++) {
                state[i * values + c] *= expf(decay[vector ? h * keys + i : h]);
                seen += (double)state[i * values + c] * k[from + i];
              }
              float d = beta[h] * (v[h * values + c] - (delta ? (float)seen : 0));
              for (int i = 0; i < keys; i++) {
                state[i * values + c] += k[from + i] * d;
                result += (double)state[i * values + c] * x[from + i];
              }
              y[h * values + c] = (float)result;
            }
          }
          break;
        }
        case CONVOLVE: {
          float *kept = rows[s->i[0]];  /* the last taps - 1 rows, the oldest first */
          int taps = s->i[1];
          for (int c = 0; c < width; c++) {
            double sum = (double)p[0]->data[c * taps + taps - 1] * x[c];
            for (int j = 0; j < taps - 1; j++) sum += (double)p[0]->data[c * taps + j] * kept[j * width + c];
            y[c] = (float)sum + (p[1] ? p[1]->data[c] : 0);
          }
          memmove(kept, kept + width, 4 * (size_t)width * (taps - 2));
          memcpy(kept + (size_t)width * (taps - 2), x, 4 * width);
          break;
        }
        case ROUTE:
          route(y, buffers[s->out[1]] + (size_t)row * width, x, s, f, in_width, p[0] ? p[0]->data : NULL,
                p[1] ? p[1]->data : NULL);
          break;
        case EXPERTS:
          experts(y, x, buffers[s->in[1]] + (size_t)row * s->i[0], buffers[s->in[2]] + (size_t)row * s->i[0], s, f, p);
          break;
      }
    }
  }
}
