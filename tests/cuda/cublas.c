/* The functions of cuBLAS that are used, on a host, with the declarations of NVIDIA's cublas_api.h.
   Statuses of what is wrong are those of cublasStatus_t: 7 an argument, 13 an execution that failed. */
#include <stddef.h>
#include <stdlib.h>

typedef struct {
    int device_pointers;
    void *stream, *workspace;
} State;
typedef State *cublasHandle_t;

int cublasCreate_v2(cublasHandle_t *handle) {
    *handle = calloc(1, sizeof(State));
    return 0;
}
int cublasDestroy_v2(cublasHandle_t handle) {
    free(handle);
    return 0;
}
int cublasSetPointerMode_v2(cublasHandle_t handle, int mode) {
    handle->device_pointers = mode == 1;
    return mode == 0 || mode == 1 ? 0 : 7;
}
int cublasSetStream_v2(cublasHandle_t handle, void *stream) {
    handle->stream = stream;
    handle->workspace = NULL;
    return 0;
}
int cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t size) {
    handle->workspace = workspace;
    return (size_t)workspace % 256 || size != (size_t)1 << 25 ? 7 : 0;
}

static double at(const void *x, int kind, long long i) {
    return kind ? ((const double *)x)[i] : ((const float *)x)[i];
}

int cublasGemmStridedBatchedEx(cublasHandle_t handle, int ta, int tb, int m, int n, int k, const void *alpha,
    const void *A, int At, int lda, long long sa, const void *B, int Bt, int ldb, long long sb, const void *beta,
    void *C, int Ct, int ldc, long long sc, int count, int compute, int algorithm) {
    if (!handle->device_pointers || !handle->workspace || handle->stream != (void *)77) return 13;
    if (ta < 0 || ta > 1 || tb < 0 || tb > 1 || m < 1 || n < 1 || k < 1 || count < 1) return 7;
    if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;
    if (count > 1 && sc < (long long)ldc * (n - 1) + m) return 7; /* results that overlap */
    if (At != Bt || Bt != Ct || At < 0 || At > 1 || algorithm != -1) return 7;
    if (At ? compute != 70 : compute != 68 && compute != 77) return 7;
    const double a = at(alpha, Ct, 0), b = at(beta, Ct, 0);
    for (long long p = 0; p < count; p++)
        for (long long j = 0; j < n; j++)
            for (long long i = 0; i < m; i++) {
                double sum = 0;
                for (long long l = 0; l < k; l++)
                    sum += at(A, At, p * sa + (ta ? l + i * lda : i + l * lda)) *
                           at(B, Bt, p * sb + (tb ? j + l * ldb : l + j * ldb));
                const long long to = p * sc + i + j * ldc;
                const double result = a * sum + (b ? b * at(C, Ct, to) : 0); /* C may be NaN where b = 0 */
                if (Ct) ((double *)C)[to] = result;
                else ((float *)C)[to] = (float)result;
            }
    return 0;
}

int cublasGemmEx(cublasHandle_t handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *A, int At,
    int lda, const void *B, int Bt, int ldb, const void *beta, void *C, int Ct, int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, A, At, lda, 0, B, Bt, ldb, 0, beta, C, Ct, ldc,
        0, 1, compute, algorithm);
}
